"""Atomic writes: a file is replaced as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import retrievers.files


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; after the block that file replaces `path`.

    If the block raises, `path` is unchanged and the temporary file is removed. One that a killed process left behind is
    overwritten by the next write, so only one process may write to `path` at a time.

    `durable`: return only after the file has been flushed to disk (`flush_to_disk`).
    """
    with retrievers.files.atomic_write(path, path.with_name(f".partial-{path.name}")) as partial:
        yield partial
        if durable:
            flush_to_disk(partial)
    if durable:
        flush_to_disk(path.parent)  # which holds the file name


def flush_to_disk(path: Path) -> None:
    """Flush a file or a folder to disk, so that it survives a power failure."""
    with suppress(OSError) if path.is_dir() else nullcontext():  # some file systems do not support it for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
