"""Atomic writes: a file or a folder is replaced as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import retrievers.files
from igsearch_env.errors import ConfigurationError


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
