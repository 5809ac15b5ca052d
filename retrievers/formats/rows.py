"""The rows of a file or folder, whatever its format, which is recognised by content.

JSON lines, a JSON list of objects, one JSON object (one row), tables with tabs or commas, Parquet, Arrow;
text files in UTF-8 or UTF-16, plain or compressed (gzip, bzip2, xz, zstandard)
folders: written by `save_to_disk` of the datasets library, or with the parts of a data set as files
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from retrievers.formats.arrow import is_arrow, is_parquet, read_arrow, read_parquet
from retrievers.formats.folders import is_saved_dataset, parts, read_saved_dataset
from retrievers.formats.json_list import read_json_list
from retrievers.formats.tables import delimiter_of, read_table
from retrievers.reading import FileError, open_file, read_json, read_json_lines, read_part

FORMATS = "JSON lines, a JSON list, a table (.tsv, .csv), Parquet or Arrow, or a folder of such files"

# What is published in another wrapping: where its first bytes are, and how to unwrap it.
_WRAPPED = (
    (0, b"PK\x03\x04", "a zip archive; unpack it (unzip {path}) and pass the files in it"),
    (0, b"version https://git-lfs", "a pointer of git-lfs, not the file; download the file itself (git lfs pull)"),
    (257, b"ustar", "a tar archive; unpack it (tar -xf {path}) and pass the file in it"),
)
_LINES, _LIST, _OBJECT = "JSON lines", "a JSON list", "one JSON object"
_HEAD = 2**16

Rows = Iterator[tuple[str, dict[str, Any]]]  # where the row is, for messages, and the row


def read_rows(path: str | Path, unread: Collection[str] = ()) -> Rows:
    """Yield the rows of a file or folder, one at a time in memory, each with its place.

    Args:
        unread: columns that are not needed. Only Parquet and Arrow files save the time to read them.

    Raises `FileError`, naming the file and the row, for anything that is not one of the formats, and
    `MissingPackageError` if a format needs a package that is not installed.
    """
    path = Path(path)
    if not path.is_dir():
        yield from _read_file(path, unread)
    elif is_saved_dataset(path):
        yield from read_saved_dataset(path, unread)
    else:
        for part in parts(path):
            yield from _read_file(part, unread)


def format_of(path: str | Path) -> str:
    """The format of a file or folder in a few words, for messages. Raises as `read_rows` does."""
    path = Path(path)
    if not path.is_dir():
        return _format_of_file(path)
    if is_saved_dataset(path):
        return "a folder of save_to_disk"
    files = parts(path)
    return f"{len(files)} {'file' if len(files) == 1 else 'files'} of {_format_of_file(files[0])}"


def _read_file(path: Path, unread: Collection[str]) -> Rows:
    match _format_of_file(path):
        case "Parquet":
            rows: Iterator[tuple[int, Any]] = read_parquet(path, unread)
        case "Arrow":
            rows = read_arrow(path, unread)
        case "a JSON list":
            rows = read_json_list(path)
        case "one JSON object":
            rows = iter([(1, read_json(path))])
        case "JSON lines":
            for number, row in read_json_lines(path):
                where = f"{path}, line {number}"
                if not isinstance(row, dict):
                    raise FileError(where, f"a {type(row).__name__}, not a JSON object; write one object per line")
                yield where, row
            return
        case _:
            yield from read_table(path)
            return
    for number, row in rows:
        yield f"{path}, row {number}", row


def _format_of_file(path: Path) -> str:
    if path.is_file():
        if is_parquet(path):
            return "Parquet"
        if is_arrow(path):
            return "Arrow"
    head = _head(path)
    for offset, mark, repair in _WRAPPED:
        if head[offset:].startswith(mark):
            raise FileError(path, repair.format(path=path))
    begins = head.lstrip()
    if not begins:
        return _LINES  # of an empty file: no rows
    if begins.startswith(b"["):
        return _LIST
    if begins.startswith(b"{"):
        line, newline, _ = begins.partition(b"\n")
        # An object that is written over several lines breaks its first line where no object can end.
        return _OBJECT if newline and line.rstrip().endswith((b"{", b"[", b",")) else _LINES
    delimiter = delimiter_of(head, path)
    if delimiter is None:
        raise FileError(path, f"no known format (it begins with {head[:40]!r}); pass {FORMATS}")
    return {"\t": "tab-separated values", ",": "comma-separated values"}.get(
        delimiter, f"values separated by {delimiter}"
    )


def _head(path: Path) -> bytes:
    """The first bytes of a file, decompressed."""
    with open_file(path) as file:
        return read_part(file, _HEAD, str(path), line=False)
