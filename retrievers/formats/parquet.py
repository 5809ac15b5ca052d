"""Reads Parquet files row by row, with pyarrow if it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from retrievers.base import RetrieverError
from retrievers.reading import FileError, one_line


class MissingPackageError(RetrieverError, ImportError):
    """An optional package is needed; the message names the file and the command that installs it."""


def read_parquet(path: str | Path, unread: Collection[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, row) of a Parquet file, without the columns `unread`."""
    path = Path(path)
    if not path.is_file():
        raise FileError(path, "no such file")
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingPackageError(
            f"{path}: reading it requires pyarrow, which can't be imported ({error}); pip install igsearch[benchmarks]"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in unread]
            for batch in file.iter_batches(1_024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except Exception as error:  # errors of pyarrow, and of values that it can't convert
        raise FileError(
            path, f"not a Parquet file, or corrupt after row {number} ({one_line(error)}); download it again"
        ) from error
