"""Opens compressed files, recognised by their first bytes, as streams of what they hold."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

HEAD = 6  # bytes that tell the formats apart


def _zstandard(path: Path) -> IO[bytes]:
    library = importlib.import_module("zstandard")
    file = open(path, "rb")  # noqa: SIM115 (closed with the reader)
    reader = library.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
    return io.BufferedReader(reader, 2**17)


FORMATS: tuple[tuple[str, bytes, str, Callable[[Path], Any]], ...] = (
    ("gzip", b"\x1f\x8b", ".gz", gzip.open),
    ("bzip2", b"BZh", ".bz2", bz2.open),
    ("xz", b"\xfd7zXZ\x00", ".xz", lzma.open),
    ("zstandard", b"(\xb5/\xfd", ".zst", _zstandard),
)
SUFFIXES = tuple(suffix for _, _, suffix, _ in FORMATS)


def compression_of(path: Path) -> str | None:
    """The name of the compression of a file, by its first bytes, else by its suffix. None: not compressed."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    by_content = (name for name, mark, _, _ in FORMATS if head.startswith(mark))
    return next(by_content, None) or next((name for name, _, suffix, _ in FORMATS if path.suffix == suffix), None)


def open_stream(path: Path) -> IO[bytes]:
    """Open a file of bytes, decompressed. Raises `ImportError` if zstandard is needed and not installed."""
    name = compression_of(path)
    opener = next((opener for known, _, _, opener in FORMATS if known == name), None)
    if opener is None:
        return open(path, "rb")
    stream: IO[bytes] = opener(path)
    return stream


def without_suffix(path: Path) -> Path:
    """The path without the suffix of a compression: `corpus.jsonl` for `corpus.jsonl.gz`."""
    return path.with_suffix("") if path.suffix in SUFFIXES else path
