"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a file beside `path` to write to; after the block it takes the place of `path`.

    If the block raises, `path` stays as it was and nothing is left beside it. Several processes that open an index may
    write the same file at once: each writes its own, and the last one to finish counts.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
