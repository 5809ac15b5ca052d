"""Text files in other encodings than UTF-8, as a stream of UTF-8.

A byte order mark says which encoding a file has. UTF-16 and UTF-32 without one are recognised by the zero bytes of
their first ASCII characters. Every other file is expected to be UTF-8. Lines that end with a carriage return alone, as
on old Macintosh computers, are given a line feed instead.
"""

from __future__ import annotations

import codecs
import io
from typing import IO

# UTF-32 first, since its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Which of the first four bytes are zero, without a mark.
_UNMARKED: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}
_BLOCK = 2**16
HEAD = 4  # bytes that tell the encodings apart


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    return _UNMARKED.get(tuple(not byte for byte in head[:HEAD]), "utf-8")


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """The stream in UTF-8 with line feeds, without a byte order mark; the same object if it is so already."""
    name = encoding_of(stream.peek(HEAD)[:HEAD])  # type: ignore[attr-defined] # all buffered readers have it
    if name == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    elif name != "utf-8":
        stream = io.BufferedReader(_Transcoder(stream, name), 2 * _BLOCK)
    begins = stream.peek(_BLOCK)  # type: ignore[attr-defined]
    # The last byte may be the first half of an end of two.
    if b"\r" in begins[:-1] and b"\n" not in begins:
        return io.BufferedReader(_LineFeeds(stream), 2 * _BLOCK)
    return stream


class _LineFeeds(io.RawIOBase):
    """Reads carriage returns as line feeds. Closes the stream that it reads when it is closed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self.stream.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()


class _Transcoder(io.RawIOBase):
    """Reads another encoding and gives UTF-8. Closes the stream that it reads when it is closed."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self.left:
            block = self.stream.read(_BLOCK)
            self.left = self.decoder.decode(block, final=not block).encode()
            if not block:
                break
        size = min(len(buffer), len(self.left))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()
