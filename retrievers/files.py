"""Atomic writing of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield the path of a temporary file to write to; after the block, that file replaces `path`.

    If the block raises, `path` is unchanged and the temporary file is removed.

    Args:
        partial: the temporary file, beside `path`. Default: one of this process. Several processes that open an index
            may write the same file at once; the last one to finish wins.
    """
    partial = partial or path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
