"""Size and hash of files, recorded when they are written and checked before they are opened again.

A native library may crash on a damaged file, or read it as if it were good.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SMALL = 64 * 2**20  # files up to this size are always read whole
BLOCK, BLOCKS = 2**16, 64  # of a larger file, a fast check reads this many blocks, the first and the last among them


def file_digest(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, and for a large one the hash of its sampled blocks."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        found: dict[str, Any] = {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return found if size <= SMALL else {**found, "sampled": _sampled(path, size)}


def folder_digest(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """`file_digest` of files inside a folder, by their path relative to it."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(files)}


def check_files(folder: Path, recorded: Any, *, whole: bool = False) -> str:
    """What is wrong with the first file that differs from its record; "" if none does.

    By default only sampled blocks of files above 64 MiB are read (4 MiB of each); with `whole`, all of them.
    """
    if not isinstance(recorded, Mapping) or not recorded:
        return "no record of its files"
    for name, record in recorded.items():
        if problem := _problem(folder, name, record, whole):
            return problem
    return ""


def _problem(folder: Path, name: Any, record: Any, whole: bool) -> str:
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return f"{name!r} is not the name of a file in it"
    if not isinstance(record, Mapping) or not isinstance(record.get("bytes"), int) or "sha256" not in record:
        return f"{name}: its record has no size and hash"
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != record["bytes"]:
        return f"{name} has {size} bytes, not the {record['bytes']} that were written"
    try:
        if whole or size <= SMALL:
            with open(path, "rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
        else:
            same = _sampled(path, size) == record.get("sampled")
    except OSError as error:
        return f"{name} can't be read ({error.strerror})"
    return "" if same else f"{name} is not what was written (its hash differs)"


def _sampled(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for number in range(BLOCKS):
            file.seek((size - BLOCK) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
