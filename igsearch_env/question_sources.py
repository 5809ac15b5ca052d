"""Sources of questions: each form of source yields rows, whatever they hold (`question_shapes.py`).

    FILE                          any format that `retrievers.formats.rows` reads
    FOLDER                        written by `save_to_disk` of the datasets library, or downloaded from the Hub
    hf:REPO/CONFIG:SPLIT          the Hugging Face Hub, e.g. hf:RUC-NLPIR/FlashRAG_datasets/nq:test

A part of a file or folder is named as on the Hub: FILE.jsonl:train, or FILE.jsonl:test[100:200] for rows 100 to 199 of
that split, of the rows that can be scored.

Parquet requires pyarrow, `save_to_disk` and hf: require the datasets library: `pip install 'igsearch[benchmarks]'`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from igsearch_env.benchmark_names import benchmark_in, canonical_split, dataset_of_path, split_in
from igsearch_env.errors import ConfigurationError, QuestionError
from retrievers.formats.folders import is_saved_dataset, saved_splits
from retrievers.formats.rows import format_of, read_rows
from retrievers.reading import FileError, MissingPackageError, import_optional, one_line

SPLITS = ("train", "dev", "test")
_HUB = re.compile(r"hf:(?P<repo>[^/:]+/[^/:]+)(?:/(?P<config>[^/:]+))?:(?P<split>.+)")
_PART = re.compile(r"(?P<path>.+):(?P<split>[a-z]\w*)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?", re.DOTALL)
_NUMBERED = re.compile(rf"({'|'.join(SPLITS)})_\d+")  # FlashRAG's ids
_HEADLESS = {"column 1": "question", "column 2": "answers"}  # of DPR's tables, which have no line with names

# The location of a row, for error messages, and the row.
Rows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class HubSource:
    """Questions on the Hub: `hf:REPO:SPLIT` or `hf:REPO/CONFIG:SPLIT`."""

    repo: str
    config: str | None
    split: str

    @classmethod
    def read(cls, source: str) -> HubSource:
        """Parse `source`. Raises `QuestionError` for any other form."""
        found = _HUB.fullmatch(source)
        if found is None:
            raise QuestionError(
                f"{source}: not hf:REPO/CONFIG:SPLIT; write e.g. hf:RUC-NLPIR/FlashRAG_datasets/nq:test"
            )
        return cls(**found.groupdict())

    @property
    def dataset(self) -> str:
        """Data set name for questions without one."""
        names = (self.config, self.repo.rpartition("/")[2])
        return next((found for name in names if name and (found := benchmark_in(name))), names[0] or names[1])


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or a folder: `PATH`, or one split of its rows, `PATH:SPLIT`, or a part of that, `PATH:SPLIT[A:B]`."""

    path: Path
    split: str | None = None
    start: int | None = None
    stop: int | None = None

    @classmethod
    def read(cls, source: str | Path) -> LocalSource:
        """Parse `source`. What exists under the whole name is that file or folder.

        Raises `QuestionError` if something else than SPLIT or SPLIT[A:B] follows the name of a file or folder, or if
        there is no name, which would be the current folder.
        """
        if not str(source).strip():
            raise QuestionError(f"questions is {source!r}; pass a file or folder, or hf:REPO/CONFIG:SPLIT")
        found = None if os.path.exists(source) else _PART.fullmatch(str(source))
        if found is None:
            name = _existing_beginning(str(source))
            if name and not os.path.exists(source):
                part = str(source)[len(name) + 1 :]
                raise QuestionError(
                    f"{source}: {part!r} names no part of {name}; write {name}:SPLIT or {name}:SPLIT[A:B] for rows A "
                    "to B - 1 of a split, e.g. :train or :test[:40]"
                )
            return cls(Path(source))
        start, stop = (int(found[name]) if found[name] else None for name in ("start", "stop"))
        return cls(Path(found["path"]), found["split"], start, stop)


def _existing_beginning(source: str) -> str:
    """The longest beginning of a source before a colon that is a file or folder; "" if there is none."""
    colons = [place for place, character in enumerate(source) if character == ":"]
    return next((source[:place] for place in reversed(colons) if os.path.exists(source[:place])), "")


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of a source, and what its name says: `dataset` and `split` for rows without; None if it says none.

    `name` begins the id of a row that has neither id nor split. `path` is None on the Hub.
    """

    rows: Rows
    path: Path | None
    name: str
    dataset: str
    split: str | None = None

    @property
    def format(self) -> str:
        """The format of a file or folder in a few words. Raises as reading the rows does."""
        return "rows of the Hub" if self.path is None else format_of(self.path)

    def dataset_at(self, where: str) -> str:
        """The data set of a row without one: of rows of a folder that of the file which holds them."""
        return _dataset_of_part(where.partition(", ")[0]) or self.dataset


@lru_cache(maxsize=1_024)
def _dataset_of_part(place: str) -> str | None:
    return dataset_of_path(Path(place)) if os.path.isfile(place) else None


def open_source(source: str | Path) -> Source:
    """Open a source; its rows are read one at a time."""
    if str(source).startswith("hf:"):
        hub = HubSource.read(str(source))
        return Source(_hub_rows(str(source), hub), None, hub.dataset, hub.dataset)
    path = LocalSource.read(source).path
    split = None if path.is_dir() else split_in(path.name)
    return Source(_local_rows(path), path, path.name.split(".")[0], dataset_of_path(path), split)


def _local_rows(path: Path) -> Rows:
    try:
        yield from _saved_rows(path) if is_saved_dataset(path) else _file_rows(path)
    except MissingPackageError as error:
        raise ConfigurationError(str(error)) from error
    except FileError as error:
        raise QuestionError(str(error)) from error


def _saved_rows(folder: Path) -> Rows:
    for where, rows in saved_splits(folder):
        split = where.removeprefix(str(folder)).removeprefix("/") or rows.split
        yield from _dataset_rows(where, rows, None if split is None else str(split))


def _file_rows(path: Path) -> Rows:
    """The rows of a file, or of the files of a folder, each with the split that the name of its file says."""
    folder = path.is_dir()
    headless = False
    for number, (where, row) in enumerate(read_rows(path)):
        if number == 0:
            headless = list(row) == list(_HEADLESS) and str(row["column 2"]).strip()[:1] == "["
        if headless:
            row = {_HEADLESS.get(name, name): value for name, value in row.items()}
        yield where, with_split(row, _split_of_part(where.rpartition(", ")[0])) if folder else row


@lru_cache(maxsize=1_024)
def _split_of_part(place: str) -> str | None:
    """The split that the name of a file, or that of its folder, says."""
    return split_in(Path(place).name) or split_in(Path(place).parent.name)


def _hub_rows(source: str, hub: HubSource) -> Rows:
    """Rows of a split on the Hub; without a network, those in the library's cache."""
    datasets = _optional("datasets", source)
    try:
        # Every request times out after HF_HUB_DOWNLOAD_TIMEOUT seconds (an environment variable, 10 by default).
        rows = datasets.load_dataset(hub.repo, hub.config, split=hub.split)
    except Exception as error:  # errors of its HTTP client, its parsers and its own code
        raise QuestionError(
            f"{source}: could not be loaded ({type(error).__name__}: {one_line(error)}); check repository, "
            "configuration, split and network, or load it once while online: later loads can use the cache "
            "(HF_HUB_OFFLINE=1 skips the network)"
        ) from error
    return _dataset_rows(source, rows, hub.split.partition("[")[0])


def _dataset_rows(where: str, dataset: Any, split: str | None) -> Rows:
    for number, row in enumerate(dataset.with_format(None), start=1):
        yield f"{where}, row {number}", with_split(row, split)


def _optional(module: str, source: str) -> Any:
    try:
        return import_optional(module, "benchmarks", f"{source}: reading it")
    except MissingPackageError as error:
        raise ConfigurationError(str(error)) from error


def split_of_id(id: str) -> str | None:
    """The split that FlashRAG's ids name (`dev_17`); None if this one does not."""
    numbered = _NUMBERED.fullmatch(id)
    return numbered[1] if numbered else None


def with_split(row: dict[str, Any], split: Any) -> dict[str, Any]:
    """Add the split of the containing source to a row, unless the row or its id names one; `dev` for validation.

    Search-R1's test file labels dev questions of HotpotQA, 2Wiki and MuSiQue as `test`; their ids are right.
    """
    if split is None or row.get("split") is not None or split_of_id(str(row.get("id"))):
        return row
    return {**row, "split": canonical_split(str(split))}
