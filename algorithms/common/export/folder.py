"""The folder of an export: written atomically, and replaced only if it has not been modified."""

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


@contextmanager
def replacing(output: Path, size: int) -> Iterator[Path]:
    """Yields a temporary folder for `size` bytes, which replaces `output` when the block ends.

    If writing fails, `output` is unchanged and the temporary folder is deleted. Raises `ConfigurationError` if the disk
    has too little free space or can't be written to.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    room = f"{size / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB were free in {output.parent}"
    if free < size:
        raise ConfigurationError(f"output={output}: {room}; free disk space, or give another --output or --dtype")
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
        # safetensors and tokenizers raise their own errors, which contain the message of the system.
        if isinstance(error, OSError) or "os error" in str(error):
            raise ConfigurationError(f"output={output}: could not be written ({error}); {room}") from error
        raise
