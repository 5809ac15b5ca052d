"""Text files in other encodings than UTF-8, as a stream of UTF-8.

A byte order mark says which encoding a file has. UTF-16 without one is recognised by the zero bytes of its first ASCII
characters. Every other file is expected to be UTF-8.
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
_BLOCK = 2**16
HEAD = 4  # bytes that tell the encodings apart


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if len(head) >= HEAD and head[0] and head[2] and not head[1] and not head[3]:
        return "utf-16-le"
    if len(head) >= HEAD and head[1] and head[3] and not head[0] and not head[2]:
        return "utf-16-be"
    return "utf-8"


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """The stream in UTF-8 without a byte order mark; the same object if it is so already."""
    name = encoding_of(stream.peek(HEAD)[:HEAD])  # type: ignore[attr-defined] # all buffered readers have it
    if name == "utf-8":
        return stream
    if name == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
        return stream
    return io.BufferedReader(_Transcoder(stream, name), 2 * _BLOCK)


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
