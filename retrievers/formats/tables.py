"""Tables of tab- or comma-separated values, with the names of the columns in the first line or without.

Published tables differ in their quotes. In DPR's `psgs_w100.tsv` a text is in double quotes, which are doubled inside;
in MS MARCO's `collection.tsv` a double quote is a character like any other. The beginning of a file decides.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from retrievers.formats.compressed import without_suffix
from retrievers.reading import MAX_LINE, FileError, read_lines

# Names of columns, any of which in the first line makes it the header.
_NAMES = frozenset(
    "id _id docid doc_id pid qid passage_id title text contents content passage body paragraph question query answer "  # noqa: SIM905
    "answers golden_answers possible_answers".split()
)
_SAMPLE = 200  # lines that decide about quotes
_LONGEST_NAME = 64


def delimiter_of(head: bytes, path: Path) -> str | None:
    """The character that separates the columns of a table, by its first line; None if that is not one of a table."""
    line = head.split(b"\n", 1)[0].decode("utf-8", "replace")
    for delimiter in ("\t", ",", ";"):
        if delimiter in line and (_is_header(_cells(line, delimiter)) or (delimiter == "\t")):
            return delimiter
    return "," if without_suffix(path).suffix == ".csv" and "," in line else None


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row and its values by column: named in the first line, else `column 1`, `column 2`..."""
    lines = _text_lines(path)
    sample = list(islice(lines, _SAMPLE))
    first = sample[0][1] if sample else ""
    delimiter = delimiter_of(first.encode(), path)
    if delimiter is None:
        raise FileError(f"{path}, line 1", f"no columns in {first[:40]!r}; separate them by tabs or commas")
    rows = _quoted if delimiter != "\t" or _has_quotes([line for _, line in sample]) else _unquoted
    names: list[str] = []
    for where, values in rows(path, chain(sample, lines), delimiter):
        if not names:
            header = _is_header(values)
            names = [v.strip() for v in values] if header else [f"column {n + 1}" for n in range(len(values))]
            if len(set(names)) < len(names):
                raise FileError(where, f"the columns are {', '.join(names)[:200]!r}; each needs a name of its own")
            if header:
                continue
        if len(values) != len(names):
            if not any(values):
                continue  # a blank line
            raise FileError(where, f"{len(values)} columns, not the {len(names)} of line 1; correct the line")
        yield where, dict(zip(names, values, strict=True))


def _quoted(path: Path, lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    try:
        for values in reader:
            yield f"{path}, line {reader.line_num}", values
    except csv.Error as error:  # a quote that is not closed, or that closes before the end of a value
        raise FileError(
            f"{path}, line {reader.line_num}", f"not separated values ({error}); correct the line"
        ) from error


def _unquoted(path: Path, lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in lines:
        yield f"{path}, line {number}", line.rstrip("\r\n").split(delimiter)


def _has_quotes(lines: list[str]) -> bool:
    """Whether values are in double quotes: one begins with one, and all lines can be read so with as many columns."""
    if not any(cell.startswith('"') for line in lines for cell in line.split("\t")):
        return False
    sizes: set[int] = set()
    try:
        for values in csv.reader(lines, delimiter="\t", strict=True):
            sizes.add(len(values))
    except csv.Error as error:
        if "unexpected end of data" not in str(error):  # else the last value ends after the sample, or never
            return False
    return len(sizes - {0}) <= 1


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _is_header(values: list[str]) -> bool:
    names = [value.strip() for value in values]
    named = any(name.lower() in _NAMES for name in names)
    return named and not any(name.isdigit() or len(name) > _LONGEST_NAME for name in names)


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, raw in read_lines(path):
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"{path}, line {number}", f"not UTF-8 ({error}); convert the file to UTF-8") from error
