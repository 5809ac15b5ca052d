"""Optional packages of the engines."""

from __future__ import annotations

import importlib
from typing import Any

from retrievers.reading import MissingPackageError


def optional(module: str, extra: str, needed_by: str) -> Any:
    """A module of an optional package. Raises `MissingPackageError`, which names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{needed_by}: requires {module.partition('.')[0]}, which can't be imported ({error}); "
            f"pip install igsearch[{extra}]"
        ) from error
