"""Reads Parquet and Arrow files row by row, with pyarrow if it is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from retrievers.reading import FileError, import_optional, one_line

_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_BATCH = 1_024


def is_parquet(path: Path) -> bool:
    """Whether a file begins as a Parquet file does."""
    return _begins(path, _PARQUET) or path.suffix == ".parquet"


def is_arrow(path: Path) -> bool:
    """Whether a file begins as an Arrow file or stream does (`.arrow` of the datasets library is a stream)."""
    return _begins(path, _ARROW_FILE) or _begins(path, _ARROW_STREAM)


def _begins(path: Path, mark: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(mark)) == mark
    except OSError as error:
        raise FileError(path, f"can't be opened ({error.strerror}); make it readable") from error


def read_parquet(path: str | Path, unread: Collection[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, row) of a Parquet file, without the columns `unread`."""
    path = Path(path)
    if not path.is_file():
        raise FileError(path, "no such file")
    parquet = _pyarrow("pyarrow.parquet", path)
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow.names, unread)
            for batch in file.iter_batches(_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except FileError:
        raise
    except Exception as error:  # errors of pyarrow, and of values that it can't convert
        raise _corrupt(path, "a Parquet file", number, error) from error


def read_arrow(path: str | Path, unread: Collection[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, row) of an Arrow file or stream, without the columns `unread`."""
    path = Path(path)
    arrow, ipc = _pyarrow("pyarrow", path), _pyarrow("pyarrow.ipc", path)
    number = 0
    try:
        with ExitStack() as stack:
            source = stack.enter_context(arrow.memory_map(str(path)))
            if _begins(path, _ARROW_FILE):
                file = stack.enter_context(ipc.open_file(source))
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                batches = iter(stack.enter_context(ipc.open_stream(source)))
            for batch in batches:
                batch.validate(full=True)  # else a damaged column would be read beyond its end
                for start in range(0, batch.num_rows, _BATCH):
                    part = batch.slice(start, _BATCH)
                    for row in part.select(_columns(path, part.schema.names, unread)).to_pylist():
                        number += 1
                        yield number, row
    except FileError:
        raise
    except Exception as error:
        raise _corrupt(path, "an Arrow file", number, error) from error


def _columns(path: Path, names: Sequence[str], unread: Collection[str]) -> list[str]:
    """The names that are read. Raises `FileError` if one occurs twice, since a row would have the last one's value."""
    kept = [name for name in names if name not in unread]
    if repeated := [name for name, count in Counter(kept).items() if count > 1]:
        raise FileError(path, f"several columns are called {repeated[0]!r}; give each a name of its own")
    return kept


def _pyarrow(module: str, path: Path) -> Any:
    return import_optional(module, "benchmarks", f"{path}: reading it")


def _corrupt(path: Path, what: str, number: int, error: Exception) -> FileError:
    return FileError(path, f"not {what}, or corrupt after row {number} ({one_line(error)}); download it again")
