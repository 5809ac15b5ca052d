"""Tables of tab- or comma-separated values, with the names of the columns in the first line or without.

Published tables differ in their quotes. In DPR's `psgs_w100.tsv` a text is in double quotes, which are doubled inside;
in MS MARCO's `collection.tsv` a double quote is a character like any other. The lines from the first value that begins
with a quote decide; before it, both read the same.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from retrievers.formats.compressed import without_suffix
from retrievers.reading import MAX_LINE, FileError, read_lines

Lines = Iterator[tuple[int, str]]  # number from 1, and the line with its end

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
    first = list(islice(lines, 1))
    line = first[0][1] if first else ""
    delimiter = delimiter_of(line.encode(), path)
    if delimiter is None:
        raise FileError(f"{path}, line 1", f"no columns in {line[:40]!r}; separate them by tabs or commas")
    rows = _tab_separated if delimiter == "\t" else partial(_quoted, delimiter=delimiter)
    names: list[str] = []
    header = False
    for where, values in rows(path, chain(first, lines)):
        if not names:
            header = _is_header(values)
            names = [v.strip() for v in values] if header else [f"column {n + 1}" for n in range(len(values))]
            if len(set(names)) < len(names):
                raise FileError(where, f"the columns are {', '.join(names)[:200]!r}; each needs a name of its own")
            if header:
                continue
        if not any(values) or (header and values == names):
            continue  # a blank line, or the header of another file that was added to this one
        if len(values) != len(names):
            raise FileError(where, f"{len(values)} columns, not the {len(names)} of line 1; correct the line")
        yield where, dict(zip(names, values, strict=True))


def _quoted(path: Path, lines: Lines, delimiter: str, before: int = 0) -> Iterator[tuple[str, list[str]]]:
    """The values of each row. `before`: the number of the line before the first one."""
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    try:
        for values in reader:
            yield f"{path}, line {before + reader.line_num}", values
    except csv.Error as error:  # a quote that is not closed, or that closes before the end of a value
        raise FileError(
            f"{path}, line {before + reader.line_num}", f"not separated values ({error}); correct the line"
        ) from error


def _tab_separated(path: Path, lines: Lines) -> Iterator[tuple[str, list[str]]]:
    """The values of each row, in quotes or not."""
    for number, line in lines:
        if '"' in line and any(cell.startswith('"') for cell in line.split("\t")):
            sample = [(number, line), *islice(lines, _SAMPLE - 1)]
            quoted = _has_quotes([text for _, text in sample])
            rest = chain(sample, lines)
            yield from _quoted(path, rest, "\t", number - 1) if quoted else _unquoted(path, rest)
            return
        yield f"{path}, line {number}", _cells_of(line)


def _unquoted(path: Path, lines: Lines) -> Iterator[tuple[str, list[str]]]:
    for number, line in lines:
        yield f"{path}, line {number}", _cells_of(line)


def _cells_of(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _has_quotes(lines: list[str]) -> bool:
    """Whether values are in double quotes: all lines can be read so, with as many columns."""
    sizes: set[int] = set()
    reader, start = csv.reader(lines, delimiter="\t", strict=True), 0
    try:
        for values in reader:
            sizes.add(len(values))
            if _are_rows(lines[start : reader.line_num]):
                return False
            start = reader.line_num
    except csv.Error as error:
        # Without an end, the last value ends after the sample, or never, which reading it refuses.
        if "unexpected end of data" not in str(error) or _are_rows(lines[start:]):
            return False
    return len(sizes - {0}) <= 1


def _are_rows(lines: list[str]) -> bool:
    """Whether the lines of a value in quotes are rows, of which the first begins and the last ends with a quote."""
    sizes = {len(_cells_of(line)) for line in lines}
    return len(lines) > 1 and len(sizes) == 1 and sizes != {1}


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
