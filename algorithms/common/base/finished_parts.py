"""The finished parts of a long measurement on disk, so that the same command resumes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError, parse_json, read_lines


class FinishedParts:
    """Parts of plain data by name, in OUTPUT.partial.jsonl: a line of settings, then a line per part.

    Raises `ConfigurationError` if the file is of a measurement with other settings, or damaged. An incomplete last line
    that a crash left behind is removed.

    Args:
        output: file that will hold the whole; None: nothing is kept on disk.
        settings: plain data that determine the parts.
    """

    def __init__(self, output: Path | None, settings: dict[str, Any]) -> None:
        self.path = None if output is None else output.with_name(f"{output.name}.partial.jsonl")
        self.parts: dict[str, Any] = {}
        if self.path is None:
            return
        size = 0
        try:
            for number, line in read_lines(self.path) if self.path.exists() else ():
                if line.endswith(b"\n"):
                    self._read(number, parse_json(line, f"{self.path}, line {number}"), settings)
                    size += len(line)
        except FileError as error:
            raise ConfigurationError(
                f"{error.where}: damaged ({error.reason}); delete the file to start over"
            ) from error
        if size:
            os.truncate(self.path, size)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def _read(self, number: int, found: Any, settings: dict[str, Any]) -> None:
        if number > 1:
            if not (isinstance(found, list) and len(found) == 2 and isinstance(found[0], str)):
                raise FileError(f"{self.path}, line {number}", "it is not the name and the data of a part")
            self.parts[found[0]] = found[1]
        elif found != settings:
            raise ConfigurationError(
                f"{self.path} was started with other settings; run that command again, give another --output, or "
                "delete the file to start over"
            )

    def add(self, name: str, part: Any) -> None:
        """Keep a part; it is in the file when this returns."""
        if self.path is not None:
            with open(self.path, "ab") as file:
                file.write(json.dumps([name, part]).encode() + b"\n")
        self.parts[name] = part

    def remove(self) -> None:
        """Remove the file, once the output is written."""
        if self.path is not None:
            self.path.unlink()
