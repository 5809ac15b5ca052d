"""Checks of the file that a command will write, made before its work."""

from __future__ import annotations

import os
from pathlib import Path

from igsearch_env.errors import ConfigurationError


def check_output_file(output: Path | None, option: str = "--output") -> None:
    """Raise `ConfigurationError` if `output` can't be written as a file; its folder may not exist yet."""
    if output is None:
        return
    if output.is_dir():
        raise ConfigurationError(f"{option} {output}: a folder; give the name of a file, such as {output / 'out'}")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ConfigurationError(f"{option} {output}: {folder} is not a folder; give another path")
    if not os.access(folder, os.W_OK) or (output.exists() and not os.access(output, os.W_OK)):
        raise ConfigurationError(f"{option} {output}: no permission to write it; give another path")
