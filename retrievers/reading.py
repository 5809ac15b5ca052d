"""The one reader of JSON, JSON lines, YAML and text files: nothing that they hold runs code or takes unbounded memory.

Every problem is a `FileError` that names the file, the line where there is one, and the rule. Rules, for all files:

    compression  gzip, bzip2, xz or zstandard, by the first bytes of a file
    encoding     UTF-8, with or without a byte order mark, or UTF-16; no lone surrogates, also where an escape
                 (\\ud800) would write one
    nesting      at most `MAX_DEPTH` brackets deep
    numbers      at most `MAX_DIGITS` digits
    memory       a line of at most `MAX_LINE` bytes, a file that is read at once of at most `MAX_FILE`, both after
                 decompression; a YAML file of at most `MAX_YAML` bytes and `MAX_NODES` values, aliases written out
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import yaml

from retrievers.base import RetrieverError
from retrievers.formats.compressed import open_stream
from retrievers.formats.encodings import as_utf8

MAX_DEPTH = 64
MAX_DIGITS = 100  # the state of a random generator has 39
MAX_LINE = 64 * 2**20
MAX_FILE = 512 * 2**20
MAX_YAML = 2**20
MAX_NODES = 100_000

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_LONG_NUMBER = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STEP = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


def one_line(error: object) -> str:
    """The message of another library's error in one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


class FileError(RetrieverError, ValueError):
    """A file that can't be read: `where` (the file, and the line if there is one) and the `reason`, with the rule."""

    def __init__(self, where: str | Path, reason: str) -> None:
        super().__init__(where, reason)
        self.where = str(where)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    def inside(self, path: str | Path) -> str:
        """The reason, after the place inside the file `path`, for a message that begins with the file."""
        place = self.where.removeprefix(str(path)).removeprefix(", ")
        return f"{place}: {self.reason}" if place else self.reason


class MissingPackageError(RetrieverError, ImportError):
    """An optional package is needed; the message names the file and the command that installs it."""


def install(extra: str) -> str:
    """The command that installs an extra, quoted for shells in which brackets are patterns, such as zsh."""
    return f"pip install 'igsearch[{extra}]'"


def import_optional(module: str, extra: str, needed_by: str) -> Any:
    """A module of an optional package. Raises `MissingPackageError`, which names the extra that installs it.

    `needed_by`: what requires it, as the beginning of the message: "FILE: reading it".
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{needed_by} requires {module.partition('.')[0]}, which can't be imported ({error}); {install(extra)}"
        ) from error


def parse_json(raw: bytes, where: str, kind: str = "JSON") -> Any:
    """The value of a JSON text. `where` names it in a `FileError`: the file, or the file and the line."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(where, f"not UTF-8 ({error}); convert the file to UTF-8") from error
    outside = _STRING.sub(b"", raw)
    deepest = max(accumulate(_STEP[found] for found in _BRACKET.findall(outside)), default=0)
    if deepest > MAX_DEPTH:
        raise FileError(where, f"brackets nested {deepest} deep; at most {MAX_DEPTH}")
    if _LONG_NUMBER.search(outside):
        raise FileError(where, f"a number of more than {MAX_DIGITS} digits; write it as a string, or shorten it")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(where, f"not {kind} ({error})") from error
    if _SURROGATE.search(raw):
        check_unicode(json.dumps(value, ensure_ascii=False), where)
    return value


def check_unicode(text: str, where: str, errors: str = "strict") -> None:
    """Raise `FileError` for text with half of a surrogate pair, which no file can hold in UTF-8."""
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise FileError(
            where, f"the text has half of a surrogate pair ({text[error.start]!r}), not a character; remove it"
        ) from error


def read_json(path: str | Path) -> Any:
    """The value of a JSON file."""
    return parse_json(read_bytes(path), str(path))


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The value of a JSON file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise FileError(path, f"a {type(value).__name__}, not a JSON object")
    return value


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of a file of JSON lines; blank lines are skipped."""
    for number, raw in read_lines(path):
        if raw.strip():
            yield number, parse_json(raw, f"{path}, line {number}", "a JSON object")


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes of the line with its end)."""
    with open_file(Path(path)) as file:
        number = 0
        while True:
            number += 1
            where = f"{path}, line {number}"
            raw = read_part(file, MAX_LINE + 1, where, line=True)
            if not raw:
                return
            if len(raw) > MAX_LINE:
                raise FileError(where, f"longer than {MAX_LINE / 2**20:.0f} MiB; write one object per line")
            yield number, raw


def read_bytes(path: str | Path, *, limit: int = MAX_FILE) -> bytes:
    """The content of a text file of at most `limit` bytes."""
    path = Path(path)
    with open_file(path) as file:
        raw = read_part(file, limit + 1, str(path), line=False)
    if len(raw) > limit:
        raise FileError(path, f"larger than {limit / 2**20:.0f} MiB, which no such file is")
    return raw


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file."""
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(path, f"not UTF-8 ({error}); convert the file to UTF-8") from error


def open_file(path: Path) -> IO[bytes]:
    """Open a text file as a stream of UTF-8, decompressed."""
    if not path.exists():
        raise FileError(path, "no such file")
    if not path.is_file():  # a folder, or a pipe, which would be waited for
        raise FileError(path, "not a file")
    try:
        stream = open_stream(path)
    except OSError as error:
        raise FileError(path, f"can't be opened ({error.strerror})") from error
    except ImportError as error:
        raise MissingPackageError(
            f"{path}: compressed with zstandard, whose package can't be imported ({error}); {install('benchmarks')}"
        ) from error
    try:
        return as_utf8(stream)
    except Exception as error:
        stream.close()
        raise _corrupt(str(path), error) from error


def read_part(file: IO[bytes], size: int, where: str, *, line: bool) -> bytes:
    """The next `size` bytes, or with `line` a line of at most so many; b"" at the end."""
    try:
        return file.readline(size) if line else file.read(size)
    except Exception as error:  # every decompressor has its own errors
        raise _corrupt(where, error) from error


def _corrupt(where: str, error: Exception) -> FileError:
    return FileError(where, f"corrupt ({one_line(error)}); restore the file, or download it again")


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """The safe loader, whose constructors raise other errors than YAMLError (an impossible date: ValueError)."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # of the stubs
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # whatever int, datetime and the rest raise for a malformed value
            raise yaml.MarkedYAMLError(None, None, f"not a value ({error})", node.start_mark) from error


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file; None if it is empty. Only plain data: no tag makes an object."""
    raw = read_bytes(path, limit=MAX_YAML)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise FileError(f"{path}, line {line}", f"not UTF-8 ({error.reason}); convert the file to UTF-8") from error
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise FileError(path, f"not YAML ({place}{error.problem or error.context}); correct the file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(path, f"not YAML ({' '.join(str(error).split())}); correct the file") from error
    _check_plain(value, str(path))
    return value


def _check_plain(value: Any, where: str) -> None:
    """Raise `FileError` if a value is too large when its aliases are written out, or holds what UTF-8 can't."""
    count, left = 0, [(value, 0)]
    while left:
        item, depth = left.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:  # an alias may also lead back to what holds it
            raise FileError(where, f"more than {MAX_NODES:,} values, or nested more than {MAX_DEPTH} deep")
        if isinstance(item, dict):
            left += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple, set)):
            left += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            check_unicode(item, where, "surrogateescape")  # of a path that is not UTF-8
