"""Checks of the file or folder that a command will write, made before its work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from igsearch_env.errors import ConfigurationError


def check_output_file(output: Path | None, option: str = "--output") -> None:
    """Raise `ConfigurationError` if `output` can't be written as a file; its folder may not exist yet."""
    if output is None:
        return
    if output.is_dir():
        raise ConfigurationError(f"{option} {output}: a folder; give the name of a file, such as {output / 'out'}")
    if output.exists() and not os.access(output, os.W_OK):
        raise ConfigurationError(f"{option} {output}: no permission to write it; give another path")
    _check_parent(output.absolute().parent, f"{option} {output}")


def check_output_folder(output: Path, option: str = "--output") -> None:
    """Raise `ConfigurationError` if `output` can't be created as a folder, or can't be written to."""
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"{option} {output}: a file; give a folder")
    _check_parent(output.absolute(), f"{option} {output}")


def _check_parent(folder: Path, what: str) -> None:
    """Raise unless a file can be made below `folder`, found out by making a folder there; nothing is left."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        raise ConfigurationError(f"{what}: {there} is not a folder; give another path")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".partial-", dir=there))
    except OSError as error:  # no permission; a file system that is read-only, or full, or of the kernel
        raise ConfigurationError(
            f"{what}: {there} can't be written to ({error.strerror}); give another path"
        ) from error
