"""The rows of a file: a JSON list, JSON lines, a table with tabs, or Parquet; the first three may be gzip."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrievers.base import CorpusError
from retrievers.formats.json_list import read_json_list
from retrievers.formats.parquet import read_parquet
from retrievers.reading import FileError, open_file, read_json_lines, read_lines, read_part

FORMATS = "a JSON list, JSON lines, a table of tab-separated values (.tsv) or Parquet, all but the last also as .gz"

# What is published in another wrapping: the first bytes, and how to unwrap it.
_WRAPPED = (
    (0, b"PK\x03\x04", "a zip archive; unpack it (unzip {path}) and pass the files in it"),
    (0, b"BZh", "compressed with bzip2; unpack it (bunzip2 {path})"),
    (0, b"(\xb5/\xfd", "compressed with zstandard; unpack it (unzstd {path})"),
    (0, b"version https://git-lfs", "a pointer of git-lfs, not the file; download the file itself (git lfs pull)"),
    (257, b"ustar", "a tar archive; unpack it (tar -xf {path}) and pass the file in it"),
)

Rows = Iterator[tuple[str, dict[str, Any]]]  # where the row is, for messages, and the row


def read_rows(path: Path) -> Rows:
    """The rows of a file, one at a time. Raises `CorpusError`, naming the file and the row, for anything else."""
    try:
        yield from _rows(path)
    except FileError as error:
        raise CorpusError(str(error)) from error


def _rows(path: Path) -> Rows:
    if path.suffix == ".parquet":
        for number, row in read_parquet(path):
            yield f"{path}, row {number}", row
        return
    head = _head(path)
    for offset, mark, repair in _WRAPPED:
        if head[offset:].startswith(mark):
            raise FileError(path, repair.format(path=path))
    if path.name.removesuffix(".gz").endswith(".tsv"):
        yield from _table(path)
    elif head.lstrip().startswith(b"["):
        for number, row in read_json_list(path):
            yield f"{path}, row {number}", row
    elif head.lstrip().startswith(b"{"):
        for number, row in read_json_lines(path):
            where = f"{path}, line {number}"
            if not isinstance(row, dict):
                raise FileError(where, f"a {type(row).__name__}, not a JSON object; write one object per line")
            yield where, row
    else:
        raise FileError(path, f"no known format (it begins with {head[:40]!r}); pass {FORMATS}")


def _head(path: Path) -> bytes:
    """The first bytes of a file, decompressed."""
    with open_file(path, packed=path.suffix == ".gz") as file:
        head = read_part(file, 512, str(path), line=False)
    if head.startswith(b"\x1f\x8b"):
        raise FileError(path, "compressed with gzip; give it a name that ends in .gz")
    return head


def _table(path: Path) -> Rows:
    """Rows of a table whose first line names its columns, as DPR's `psgs_w100.tsv` (id, text, title)."""
    reader = csv.reader(_text_lines(path), delimiter="\t", strict=True)
    try:
        names = next(reader, [])
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if len(values) != len(names):
                raise FileError(where, f"{len(values)} columns, not the {len(names)} of line 1; correct the line")
            yield where, dict(zip(names, values, strict=True))
    except csv.Error as error:  # a quote that is not closed, a value of more than 131,072 characters
        raise FileError(f"{path}, line {reader.line_num}", f"not tab-separated values ({error})") from error


def _text_lines(path: Path) -> Iterator[str]:
    for number, raw in read_lines(path):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"{path}, line {number}", f"not UTF-8 ({error}); convert the file to UTF-8") from error
