"""The folder of an export: replaced only if it has not been modified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algorithms.common.export.trained_policy import read_json
from igsearch_env.errors import ConfigurationError

MARK = "igsearch_export.json"  # lists the files of an export


def check_replaceable(output: Path) -> None:
    """Raise `ConfigurationError` unless `output` does not exist, is empty, or is an unmodified export."""
    elsewhere = "give another --output, or move it away"
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigurationError(f"output={output}: it is a file; {elsewhere}")
    held = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    if not held:
        return
    mark = read_json(output / MARK)
    if mark is None:
        raise ConfigurationError(f"output={output}: it is not an export (it holds {min(held)}, ...); {elsewhere}")
    added = sorted(held - {MARK, *mark["files"]})
    if added:
        raise ConfigurationError(f"output={output}: {added[0]} was added to this export; {elsewhere}")
    if "README.md" in held and _hash(output / "README.md") != mark["readme"]:
        raise ConfigurationError(f"output={output}: its README.md was edited; save a copy elsewhere, then delete it")


def write_mark(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the list of the files of an export."""
    files = sorted(path.name for path in folder.iterdir())
    content = {**facts, "files": files, "readme": _hash(folder / "README.md")}
    (folder / MARK).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
