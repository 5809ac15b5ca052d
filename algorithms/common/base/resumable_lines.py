"""JSON lines that a long job appends to, and that the same command reads again to resume it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError, parse_json, read_lines


def partial_path(output: Path) -> Path:
    """Where the lines of an unfinished OUTPUT are."""
    return output.parent / f"{output.name}.partial.jsonl"


def resume_lines(path: Path, first: Any, read: Callable[[int, Any], None]) -> None:
    """Read the lines of an earlier start, or begin the file with the line `first`.

    An incomplete last line that a crash left behind is removed. Raises `ConfigurationError` if the file is damaged.

    Args:
        path: the file.
        first: what the first line of a new file holds.
        read: called with the number of each line, from 1, and what it holds; raises `FileError` if that is damaged.
    """
    size = 0
    try:
        for number, line in read_lines(path) if path.exists() else ():
            if line.endswith(b"\n"):
                read(number, parse_json(line, f"{path}, line {number}"))
                size += len(line)
    except FileError as error:
        raise ConfigurationError(f"{error.where}: damaged ({error.reason}); delete the file to start over") from error
    if size:
        os.truncate(path, size)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(first) + "\n", encoding="utf-8")


def append_lines(path: Path, rows: Iterable[Any]) -> None:
    """Append rows; they are in the file when this returns."""
    with open(path, "ab") as file:
        file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
