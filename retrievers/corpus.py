"""Corpora on disk: FlashRAG's jsonl, one object per line with `id` and `contents` (title, newline, text)."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from retrievers.base import CorpusError, Passage
from retrievers.files import atomic_write
from retrievers.reading import MAX_LINE, FileError, one_line, parse_json, read_json_lines, read_lines


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number from 1, object) of a .jsonl or .jsonl.gz file; blank lines are skipped."""
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; pass a .jsonl or .jsonl.gz file")
    try:
        for number, row in read_json_lines(path):
            yield number, _object(row, f"{path}, line {number}")
    except FileError as error:
        raise CorpusError(f"{error}; write one JSON object per line") from error


def _object(row: object, where: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: a {type(row).__name__}, not a JSON object; write one object per line")
    return row


def passage_of(row: dict[str, object], where: str, verbatim_titles: bool) -> Passage:
    """The passage of a row with `id` and `contents`. `where` names the row in a `CorpusError`."""
    for field in ("id", "contents"):
        if field not in row:
            raise CorpusError(f"{where}: no field {field!r} (found {sorted(row)}); a passage needs id and contents")
    contents = row["contents"]
    if not isinstance(contents, str) or not contents.strip():
        raise CorpusError(f"{where}: contents is {contents!r}; it must be a non-empty string")
    if isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
        raise CorpusError(f"{where}: id is {str(row['id'])[:80]!r}; it must be a string or a whole number")
    return Passage.from_contents(str(row["id"]), contents, verbatim_title=verbatim_titles)


def load_corpus(path: str | Path, *, verbatim_titles: bool = False) -> list[Passage]:
    """Read a whole corpus into memory (.jsonl or .jsonl.gz).

    Raises `CorpusError`, naming file and line, for a malformed line, a repeated id or an empty file.
    """
    first_line: dict[str, int] = {}
    passages = []
    for number, row in read_jsonl(path):
        passage = passage_of(row, f"{path}, line {number}", verbatim_titles)
        if passage.id in first_line:
            raise CorpusError(
                f"{path}, line {number}: id {passage.id!r} is already used on line {first_line[passage.id]}; "
                "ids must be unique"
            )
        first_line[passage.id] = number
        passages.append(passage)
    if not passages:
        raise CorpusError(f"{path}: contains no passages; a corpus needs at least one")
    return passages


def write_corpus(passages: Iterable[Passage], path: str | Path) -> None:
    """Write passages as FlashRAG jsonl, atomically."""
    with atomic_write(Path(path)) as partial, open(partial, "w", encoding="utf-8") as file:
        for p in passages:
            file.write(json.dumps({"id": p.id, "contents": f'"{p.title}"\n{p.text}'}, ensure_ascii=False) + "\n")


def corpus_hash(passages: Iterable[Passage]) -> str:
    """SHA-256 over ids, titles and texts in order: the identity of a corpus, 64 hex digits."""
    digest = hashlib.sha256()
    for p in passages:
        digest.update(_identity(p))
    return digest.hexdigest()


def _identity(passage: Passage) -> bytes:
    return f"{passage.id}\x1f{passage.title}\x1f{passage.text}\x1e".encode()


def _ignore(done: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Survey:
    """Statistics of a checked corpus file: every line is a passage with a unique id."""

    passages: int
    characters: int  # of titles and texts
    hash: str  # `corpus_hash`


def survey_corpus(path: str | Path, *, copy: Path | None = None, progress: Callable[[int], None] = _ignore) -> Survey:
    """Check a corpus of any size line by line, in 8 bytes of memory per passage; `progress` gets the lines read.

    `copy`: a plain .jsonl that gets the contents of a compressed file. Raises `CorpusError` as `load_corpus` does.
    """
    digest, ids, characters = hashlib.sha256(), array("Q"), 0
    with open(copy, "w", encoding="utf-8") if copy is not None else nullcontext() as plain:
        for number, row in read_jsonl(path):
            passage = passage_of(row, f"{path}, line {number}", False)
            digest.update(_identity(passage))
            ids.append(int.from_bytes(hashlib.blake2b(passage.id.encode(), digest_size=8).digest()))
            characters += len(passage.title) + len(passage.text)
            if plain is not None:
                plain.write(json.dumps({"id": row["id"], "contents": row["contents"]}, ensure_ascii=False) + "\n")
            progress(number)
    if not ids:
        raise CorpusError(f"{path}: contains no passages; a corpus needs at least one")
    ordered = np.sort(np.frombuffer(ids, np.uint64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if repeated:
        _name_repeated_id(path, ids, repeated)
    return Survey(len(ids), characters, digest.hexdigest())


def _name_repeated_id(path: str | Path, ids: array[int], repeated: set[int]) -> None:
    first: dict[str, int] = {}
    for (number, row), hashed in zip(read_jsonl(path), ids, strict=True):
        if hashed in repeated:
            id = str(row["id"])
            if id in first:
                raise CorpusError(
                    f"{path}, line {number}: id {id!r} is already used on line {first[id]}; ids must be unique"
                )
            first[id] = number


class DiskCorpus(Sequence[Passage]):
    """A corpus that stays on disk: passages are read one by one through a table of line offsets.

    The table (`offsets`, by default `<file>.offsets.npy`; 8 bytes per passage, memory-mapped) is written on first use
    in one pass. The file must be plain .jsonl, since a compressed one has no random access.
    """

    def __init__(self, path: str | Path, *, verbatim_titles: bool = False, offsets: str | Path | None = None) -> None:
        self.path = Path(path)
        self.verbatim_titles = verbatim_titles
        if self.path.suffix == ".gz":
            raise CorpusError(f"{self.path}: compressed; decompress it first, or read it with load_corpus")
        if not self.path.is_file():
            raise CorpusError(f"{self.path}: no such file")
        table = self.path.with_name(self.path.name + ".offsets.npy") if offsets is None else Path(offsets)
        if table.exists() and not table.is_file():
            raise CorpusError(f"{table}: not a file; delete it, and it is written again")
        if not table.is_file() or table.stat().st_mtime < self.path.stat().st_mtime:
            self._write_offsets(table)
        try:
            self.offsets = np.load(table, mmap_mode="r")
        except Exception as error:  # the parser of its header raises whatever Python's own does
            raise CorpusError(f"{table}: damaged ({one_line(error)}); delete it, and it is written again") from error
        if self.offsets.dtype != np.int64 or self.offsets.ndim != 1 or not len(self.offsets):
            raise CorpusError(f"{table}: not a table of line offsets; delete it, and it is written again")
        size = self.path.stat().st_size
        if self.offsets[0] < 0 or self.offsets[-1] >= size or (np.diff(self.offsets) <= 0).any():
            raise CorpusError(f"{table}: its offsets are not those of {self.path}; delete it, and it is written again")
        self.file = open(self.path, "rb")  # noqa: SIM115 (stays open as long as the corpus)

    def _write_offsets(self, table: Path) -> None:
        offsets, position = [], 0
        try:
            for _, raw in read_lines(self.path):
                if raw.strip():
                    offsets.append(position)
                position += len(raw)
        except FileError as error:
            raise CorpusError(str(error)) from error
        if not offsets:
            raise CorpusError(f"{self.path}: contains no passages; a corpus needs at least one")
        with atomic_write(table) as partial, open(partial, "wb") as file:
            np.save(file, np.array(offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        offset = int(self.offsets[index])
        where = f"{self.path}, passage {index}"
        if offset and os.pread(self.file.fileno(), 1, offset - 1) != b"\n":
            raise CorpusError(f"{where}: no line begins at byte {offset}; delete its table of offsets")
        raw = os.pread(self.file.fileno(), 1 << 16, offset)
        while b"\n" not in raw and len(raw) <= MAX_LINE:
            more = os.pread(self.file.fileno(), 1 << 20, offset + len(raw))
            if not more:
                break
            raw += more
        try:
            row = parse_json(raw.split(b"\n", 1)[0], where)
        except FileError as error:
            raise CorpusError(f"{error}; the file has changed, or its table of offsets is damaged") from error
        return passage_of(_object(row, where), where, self.verbatim_titles)

    def close(self) -> None:
        """Close the file; the corpus can't be read afterwards."""
        self.file.close()

    def __del__(self) -> None:
        if hasattr(self, "file"):  # not if it could not be opened
            self.close()
