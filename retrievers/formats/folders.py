"""Folders that hold one data set: written by `save_to_disk` of the datasets library, or its parts as files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from retrievers.formats.compressed import without_suffix
from retrievers.reading import FileError, import_optional, one_line

_SAVED = ("dataset_dict.json", "state.json")
_DATA = (".jsonl", ".ndjson", ".json", ".tsv", ".csv", ".parquet", ".arrow", ".txt")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
_QUERIES = ("queries", "qrels")
_DIGITS = re.compile(r"(\d+)")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in _SAVED)


def parts(folder: Path) -> list[Path]:
    """The data files below a folder, in the order of their numbers (`part-2` before `part-10`).

    Of a folder in the form of BEIR only the corpus. Raises `FileError` if the folder has no data files, or files of
    several formats.
    """
    files = _data_files(folder)
    corpus = sorted(path for path in files if path.parent == folder and without_suffix(path).name == "corpus.jsonl")
    if corpus:
        return corpus[:1]
    if any(_is_of(path, folder, _QUERIES) for path in files):  # as BEIR is on the Hub: corpus/, queries/
        files = [path for path in files if _is_of(path, folder, ("corpus",))] or files
    suffixes = sorted({_suffix(path) for path in files})
    if not files:
        raise FileError(folder, f"a folder without data files ({', '.join(_DATA)}, plain or compressed)")
    if len(suffixes) > 1:
        raise FileError(
            folder, f"a folder with files of several formats ({', '.join(suffixes)}); pass one of the files"
        )
    return sorted(files, key=lambda path: [int(t) if t.isdigit() else t for t in _DIGITS.split(str(path))])


def has_parts(folder: Path) -> bool:
    """Whether there are data files below a folder."""
    return bool(_data_files(folder))


def _data_files(folder: Path) -> list[Path]:
    """Those below a folder, also through links, that are neither hidden nor descriptions."""

    def refuse(error: OSError) -> NoReturn:
        raise FileError(error.filename, f"can't be read ({error.strerror}); make it readable") from error

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # A link may lead back to a folder around it.
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            paths = (Path(place, name) for name in names if not name.startswith(".") and name not in _DESCRIPTIONS)
            found += [path for path in paths if _suffix(path) in _DATA and path.is_file()]
        seen.add(real)
    return found


def _is_of(path: Path, folder: Path, words: Collection[str]) -> bool:
    """Whether the name of a file, or that of a folder around it, begins with one of the words."""
    return any(re.split(r"[\W_]", part, maxsplit=1)[0] in words for part in path.relative_to(folder).parts)


def _suffix(path: Path) -> str:
    return without_suffix(path).suffix


def read_saved_dataset(folder: Path, unread: Collection[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place (`FOLDER/SPLIT, row 3`, or without a split `FOLDER, row 3`) and the row, for every row."""
    splits = list(saved_splits(folder))
    for where, dataset in [found for found in splits if found[0] == f"{folder}/corpus"] or splits:
        kept = dataset.remove_columns([name for name in dataset.column_names if name in unread]).with_format(None)
        for number, row in enumerate(kept, start=1):
            yield f"{where}, row {number}", row


def saved_splits(folder: Path) -> Iterator[tuple[str, Any]]:
    """Each data set of the folder: the place of its rows (FOLDER/SPLIT, or FOLDER if it is one), and the data set."""
    datasets = import_optional("datasets", "benchmarks", f"{folder}: reading it")
    try:
        saved = datasets.load_from_disk(str(folder))
        splits = dict(saved) if isinstance(saved, Mapping) else {"": saved}
        for part in splits.values():
            part.data.table.validate(full=True)  # Arrow would read beyond the ends of a damaged column
    except Exception as error:  # errors of pyarrow, of JSON and of values of other types than the library expects
        raise FileError(
            folder,
            f"not a folder written by save_to_disk of the datasets library ({one_line(error)}); pass one, or a file",
        ) from error
    for split, part in splits.items():
        yield (f"{folder}/{split}" if split else str(folder)), part
