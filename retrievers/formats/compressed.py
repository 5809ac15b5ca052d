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
_BLOCK = 2**10  # compressed bytes read at once: what they can become stays below 64 MiB


def _zstandard(path: Path) -> IO[bytes]:
    library = importlib.import_module("zstandard")
    return io.BufferedReader(_Frames(path, library.ZstdDecompressor().decompressobj), 2**17)


class _Frames(io.RawIOBase):
    """Reads a file of Zstandard frames. The library's own reader takes a file that ends inside a frame for complete."""

    def __init__(self, path: Path, begin: Callable[[], Any]) -> None:
        self.file = open(path, "rb")  # noqa: SIM115 (closed with this object)
        self.begin = begin
        self.frame: Any = None  # None: between two frames
        self.packed = self.left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self.left:
            self.packed = self.packed or self.file.read(_BLOCK)
            if not self.packed:
                if self.frame is not None:
                    raise EOFError("the file ends before its last frame does")
                return 0
            self.frame = self.frame or self.begin()
            self.left, self.packed = self.frame.decompress(self.packed), b""
            if self.frame.eof:
                self.frame, self.packed = None, self.frame.unused_data
        size = min(len(buffer), len(self.left))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


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
