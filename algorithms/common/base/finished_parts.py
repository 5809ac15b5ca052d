"""The finished parts of a long measurement on disk, so that the same command resumes it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from algorithms.common.base.resumable_lines import append_lines, partial_path, resume_lines
from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError


class FinishedParts:
    """Parts of plain data by name, in OUTPUT.partial.jsonl: a line of settings, then a line per part.

    Raises `ConfigurationError` if the file is of a measurement with other settings, or damaged. An incomplete last line
    that a crash left behind is removed.

    Args:
        output: file that will hold the whole; None: nothing is kept on disk.
        settings: plain data that determine the parts.
    """

    def __init__(self, output: Path | None, settings: dict[str, Any]) -> None:
        self.path = None if output is None else partial_path(output)
        self.parts: dict[str, Any] = {}
        if self.path is None:
            return
        resume_lines(self.path, settings, partial(self._read, settings))

    def _read(self, settings: dict[str, Any], number: int, found: Any) -> None:
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
            append_lines(self.path, [[name, part]])
        self.parts[name] = part

    def remove(self) -> None:
        """Remove the file, once the output is written."""
        if self.path is not None:
            self.path.unlink()
