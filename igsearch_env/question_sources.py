"""Where questions come from: the rows of every form of source.

    FILE.jsonl, FILE.jsonl.gz     FlashRAG: `id`, `question`, `golden_answers`
    FILE.parquet                  Search-R1: the same columns, or `data_source`, `reward_model`, `extra_info`
    FOLDER                        what `save_to_disk` of the datasets library wrote, one split or several
    hf:REPO/CONFIG:SPLIT          the Hugging Face hub, e.g. hf:RUC-NLPIR/FlashRAG_datasets/nq:test

Parquet needs pyarrow, the last two the datasets library: `pip install igsearch[benchmarks]`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsearch_env.errors import ConfigurationError, QuestionError
from retrievers.base import CorpusError
from retrievers.corpus import read_jsonl

SPLITS = ("train", "dev", "test")
_HUB = re.compile(r"hf:(?P<repo>[^/:]+/[^/:]+)(?:/(?P<config>[^/:]+))?:(?P<split>.+)")
_NUMBERED = re.compile(rf"({'|'.join(SPLITS)})_\d+")  # FlashRAG's ids
# Left unread: prompts are the protocol's business, and FlashRAG's `metadata` holds whole contexts.
_UNREAD = ("prompt", "metadata")

# Where a row stands, for error messages, and the row.
Rows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class HubSource:
    """Questions on the hub: `hf:REPO:SPLIT` or `hf:REPO/CONFIG:SPLIT`."""

    repo: str
    config: str | None
    split: str

    @classmethod
    def read(cls, source: str) -> HubSource:
        """Raises `QuestionError` if it has another form."""
        found = _HUB.fullmatch(source)
        if found is None:
            raise QuestionError(
                f"{source}: not hf:REPO/CONFIG:SPLIT; write e.g. hf:RUC-NLPIR/FlashRAG_datasets/nq:test"
            )
        return cls(**found.groupdict())

    @property
    def dataset(self) -> str:
        """The data set of questions that name none."""
        return self.config or self.repo.rpartition("/")[2]


def open_source(source: str | Path) -> tuple[Rows, str]:
    """The rows of a source, and the data set of those that name none."""
    if str(source).startswith("hf:"):
        hub = HubSource.read(str(source))
        return _hub_rows(str(source), hub), hub.dataset
    path = Path(source)
    name = path.name.split(".")[0]
    if name in SPLITS and path.absolute().parent.name:
        name = path.absolute().parent.name
    if path.is_dir():
        return _saved_rows(path), name
    return _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path), name


def _jsonl_rows(path: Path) -> Rows:
    try:
        for number, row in read_jsonl(path):
            yield f"{path}, line {number}", row
    except CorpusError as error:
        raise QuestionError(str(error)) from error


def _parquet_rows(path: Path) -> Rows:
    if not path.is_file():
        raise QuestionError(f"{path}: no such file; pass a .jsonl, .jsonl.gz or .parquet file")
    parquet = _optional("pyarrow.parquet", str(path))
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in _UNREAD]
            for batch in file.iter_batches(4_096, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError) as error:
        raise QuestionError(
            f"{path}: no parquet file, or damaged after row {number} ({error}); get it again"
        ) from error


def _hub_rows(source: str, hub: HubSource) -> Rows:
    """Rows of a split on the hub; without a network, those that the library's cache holds."""
    datasets = _optional("datasets", source)
    try:
        # Every request ends after HF_HUB_DOWNLOAD_TIMEOUT seconds (10, unless the environment says otherwise).
        rows = datasets.load_dataset(hub.repo, hub.config, split=hub.split)
    except Exception as error:  # it raises what its HTTP client, its parsers and its own code raise
        raise QuestionError(
            f"{source}: could not be had ({type(error).__name__}: {error}); check repository, configuration, split and "
            "network, or load it once where there is one: the cache serves without (HF_HUB_OFFLINE=1 does not try)"
        ) from error
    return _dataset_rows(source, rows, hub.split.partition("[")[0])


def _saved_rows(folder: Path) -> Rows:
    datasets = _optional("datasets", str(folder))
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise QuestionError(
            f"{folder}: no folder that save_to_disk of the datasets library wrote ({error}); pass one, or a file"
        ) from error
    if isinstance(saved, Mapping):
        for split, rows in saved.items():
            yield from _dataset_rows(f"{folder}/{split}", rows, split)
    else:
        yield from _dataset_rows(str(folder), saved, None if saved.split is None else str(saved.split))


def _dataset_rows(where: str, dataset: Any, split: str | None) -> Rows:
    kept = dataset.remove_columns([name for name in dataset.column_names if name in _UNREAD]).with_format(None)
    for number, row in enumerate(kept, start=1):
        yield f"{where}, row {number}", with_split(row, split)


def _optional(module: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{source}: reading it needs {module.split('.')[0]}, which is not here ({error}); "
            "pip install igsearch[benchmarks]"
        ) from error


def split_of_id(id: str) -> str | None:
    """The split that FlashRAG's ids name (`dev_17`); None if this one does not."""
    numbered = _NUMBERED.fullmatch(id)
    return numbered[1] if numbered else None


def with_split(row: dict[str, Any], split: Any) -> dict[str, Any]:
    """The row with the split of what holds it, unless itself or its id names one.

    Search-R1's test file says `test` of dev questions of HotpotQA, 2Wiki and MuSiQue too; their ids know better.
    """
    if split is None or row.get("split") is not None or split_of_id(str(row.get("id"))):
        return row
    return {**row, "split": str(split)}
