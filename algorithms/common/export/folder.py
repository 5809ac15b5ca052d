"""The folder of an export: whole or not there, and replaced only where nobody has changed it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from algorithms.common.export.trained_policy import read_json
from igsearch_env.errors import ConfigurationError

MARK = "igsearch_export.json"  # in a folder that was written here: what was written


def check_replaceable(output: Path) -> None:
    """Raise `ConfigurationError` unless `output` is free, empty, or an export as it was written."""
    elsewhere = "give another --output, or move it away"
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigurationError(f"output={output}: a file is there; {elsewhere}")
    held = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    if not held:
        return
    mark = read_json(output / MARK)
    if mark is None:
        raise ConfigurationError(f"output={output}: it holds something else ({min(held)}, ...); {elsewhere}")
    added = sorted(held - {MARK, *mark["files"]})
    if added:
        raise ConfigurationError(f"output={output}: {added[0]} was added to this export; {elsewhere}")
    if "README.md" in held and _hash(output / "README.md") != mark["readme"]:
        raise ConfigurationError(f"output={output}: its README.md was edited; keep it elsewhere, then delete it there")


def write_mark(folder: Path, facts: Mapping[str, Any]) -> None:
    """Note what an export consists of."""
    files = sorted(path.name for path in folder.iterdir())
    content = {**facts, "files": files, "readme": _hash(folder / "README.md")}
    (folder / MARK).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def replacing(output: Path, size: int) -> Iterator[Path]:
    """A folder to write `size` bytes to, which takes the place of `output` in the end.

    Whatever stops the writing leaves `output` as it was and nothing beside it. Raises `ConfigurationError` if the disk
    has no room, or can't be written to.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    room = f"{size / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB were free in {output.parent}"
    if free < size:
        raise ConfigurationError(f"output={output}: {room}; make room, or give another --output or --dtype")
    try:
        with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent, ignore_cleanup_errors=True) as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            new.mkdir()
            yield new
            if output.exists():
                output.rename(old)
            try:
                new.rename(output)
            except BaseException:
                if old.exists():
                    old.rename(output)
                raise
    except Exception as error:
        # safetensors and tokenizers have errors of their own, which say what the system said.
        if isinstance(error, OSError) or "os error" in str(error):
            raise ConfigurationError(f"output={output}: could not be written ({error}); {room}") from error
        raise
