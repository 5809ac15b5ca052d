"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the path of a file beside `path` to write to; after the block it takes the place of `path`.

    If the block raises, `path` stays as it was and nothing is left beside it. A file that a killed process left is
    overwritten by the next write, so only one process may write to `path` at a time.

    `durable`: return only when the file is on the disk itself (`flush_to_disk`).
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        if durable:
            flush_to_disk(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        flush_to_disk(path.parent)  # which holds the name


def flush_to_disk(path: Path) -> None:
    """Write a file or a folder through to the disk, so that it survives a loss of power."""
    with suppress(OSError) if path.is_dir() else nullcontext():  # some file systems can't do it for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
