"""Reads a JSON file that holds one list of objects, of any length: one object at a time is in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from retrievers.reading import MAX_DEPTH, MAX_LINE, FileError, open_file, parse_json, read_part

BLOCK = 2**20
# A string, a bracket, or the quote of a string whose end has not been read. Possessive, so that nothing is kept to
# go back to.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)


def read_json_list(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (row number from 1, object) of a file whose value is a list of objects.

    The rules of `retrievers.reading` hold, and an object has at most `MAX_LINE` bytes. Raises `FileError` for another
    value, and for a list that does not end (a truncated file), after the rows before that place.
    """
    path = Path(path)
    with open_file(path) as file:
        for number, raw in enumerate(_objects(file, str(path)), start=1):
            yield number, parse_json(raw, f"{path}, row {number}")


def _objects(file: IO[bytes], path: str) -> Iterator[bytes]:
    """The bytes of each object of the list."""
    raw = b""  # what has been read but not yielded; the first object, or what is between two, begins it
    scanned = 0  # bytes of `raw` whose brackets have been counted
    start = 0  # where the object begins, if depth > 1; else where the last one ended
    depth = number = 0
    ended = False
    while block := read_part(file, BLOCK, f"{path}, row {number + 1}", line=False):
        raw += block
        position = len(raw)
        for token in _TOKEN.finditer(raw, scanned):
            found = token[0]
            if found == b'"':
                position = token.start()  # the string is read again with the next block
                break
            if found == b"{" or found == b"[":
                if depth < 2:
                    if ended or found != (b"[" if depth == 0 else b"{"):
                        raise _not_a_list(path, number)
                    _check_between(raw[start : token.start()], path, number, first=depth == 0 or number == 0)
                    start = token.start() if depth else token.end()
                depth += 1
                if depth > MAX_DEPTH:
                    raise FileError(f"{path}, row {number + 1}", f"brackets nested more than {MAX_DEPTH} deep")
            elif found == b"}" or found == b"]":
                depth -= 1
                if depth == 1:
                    number += 1
                    yield raw[start : token.end()]
                    start = token.end()
                elif depth < 1:
                    if ended or found != b"]":
                        raise _not_a_list(path, number)
                    _check_between(raw[start : token.start()], path, number, first=True)
                    start, ended = token.end(), True
        raw, scanned, start = raw[start:], position - start, 0
        if len(raw) > MAX_LINE:
            raise FileError(f"{path}, row {number + 1}", f"longer than {MAX_LINE / 2**20:.0f} MiB")
    if not ended:
        if depth == 0:
            raise _not_a_list(path, number)
        raise FileError(
            f"{path}, row {number + 1}", "the file ends before its list does: it is truncated; download it again"
        )
    if raw.strip():
        raise _not_a_list(path, number)


def _check_between(between: bytes, path: str, number: int, *, first: bool) -> None:
    """Raise unless what is between two objects is a comma, and nothing before the first or after the last one."""
    if between.strip() != (b"" if first else b","):
        raise _not_a_list(path, number)


def _not_a_list(path: str, number: int) -> FileError:
    after = f" after row {number}" if number else ""
    return FileError(path, f"not a JSON list of objects{after}; write [{{...}}, {{...}}], or one object per line")
