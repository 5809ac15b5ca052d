"""Corpora: files of any published form (`passage_rows.py`), read into memory or checked in one pass, and FlashRAG's
jsonl (`id` and `contents`), whose passages can stay on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from retrievers.base import CorpusError, Passage
from retrievers.files import atomic_write
from retrievers.passage_rows import describe, passage_of, read_passages
from retrievers.reading import MAX_LINE, FileError, one_line, parse_json, read_lines

logger = logging.getLogger(__name__)


def load_corpus(path: str | Path, *, verbatim_titles: bool = False) -> list[Passage]:
    """Read a whole corpus into memory, from a file or folder of any form in `retrievers.passage_rows`.

    Rows without title and text are left out; the log says how many, and what the corpus was recognised as. Raises
    `CorpusError`, naming file and row, for a malformed row, a repeated id or an empty file.
    """
    first: dict[str, str] = {}
    passages = []
    empty = 0
    for where, passage in read_passages(path, verbatim_titles):
        if passage is None:
            empty += 1
            continue
        if passage.id in first:
            raise _repeated(where, passage.id, first[passage.id])
        first[passage.id] = where
        passages.append(passage)
    if not passages:
        raise _no_passages(path, empty)
    logger.info("%s: %s", path, describe(path))
    if empty:
        logger.warning("%s: %s passages without title and text are left out", path, f"{empty:,}")
    return passages


def _repeated(where: str, id: str, first: str) -> CorpusError:
    file, _, place = first.rpartition(", ")
    used = place if where.rpartition(", ")[0] == file else first
    return CorpusError(f"{where}: id {id!r} is already used on {used}; ids must be unique")


def _no_passages(path: str | Path, empty: int) -> CorpusError:
    found = f" but {empty:,} without title and text" if empty else ""
    return CorpusError(f"{path}: contains no passages{found}; a corpus needs at least one")


def write_corpus(passages: Iterable[Passage], path: str | Path) -> None:
    """Write passages as FlashRAG jsonl, atomically."""
    with atomic_write(Path(path)) as partial, open(partial, "w", encoding="utf-8") as file:
        for p in passages:
            file.write(_line(p))


def _line(passage: Passage) -> str:
    if "\n" in passage.title:
        raise CorpusError(
            f"passage {passage.id!r}: its title {passage.title[:80]!r} has several lines, but the first line of "
            "contents is the title; replace the line ends by spaces"
        )
    row = {"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}
    return json.dumps(row, ensure_ascii=False) + "\n"


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
    """Statistics of a checked corpus: every row is a passage with a unique id, or empty."""

    passages: int
    characters: int  # of titles and texts
    hash: str  # `corpus_hash`
    empty: int  # rows without title and text, left out
    recognised: str  # format and fields


def survey_corpus(path: str | Path, *, copy: Path | None = None, progress: Callable[[int], None] = _ignore) -> Survey:
    """Check a corpus of any size and form row by row, in 8 bytes of memory per passage; `progress` gets the rows read.

    `copy`: a file that gets the passages as FlashRAG jsonl. Raises `CorpusError` as `load_corpus` does.
    """
    digest, ids, characters, empty = hashlib.sha256(), array("Q"), 0, 0
    with open(copy, "w", encoding="utf-8") if copy is not None else nullcontext() as plain:
        for number, (_, passage) in enumerate(read_passages(path), start=1):
            progress(number)
            if passage is None:
                empty += 1
                continue
            digest.update(_identity(passage))
            ids.append(_hashed(passage.id))
            characters += len(passage.title) + len(passage.text)
            if plain is not None:
                plain.write(_line(passage))
    if not ids:
        raise _no_passages(path, empty)
    ordered = np.sort(np.frombuffer(ids, np.uint64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if repeated:
        _name_repeated_id(path, repeated)
    return Survey(len(ids), characters, digest.hexdigest(), empty, describe(path))


def _hashed(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


def _name_repeated_id(path: str | Path, repeated: set[int]) -> None:
    first: dict[str, str] = {}
    for where, passage in read_passages(path):
        if passage is not None and _hashed(passage.id) in repeated:
            if passage.id in first:
                raise _repeated(where, passage.id, first[passage.id])
            first[passage.id] = where


def has_random_access(path: str | Path) -> bool:
    """Whether `DiskCorpus` can open a file: plain JSON lines in UTF-8, of `id` and `contents` by the first one."""
    try:
        with open(path, "rb") as file:
            while raw := file.readline(MAX_LINE):
                if raw.strip():
                    row = parse_json(raw, str(path))
                    return isinstance(row, dict) and {"id", "contents"} <= row.keys()
    except (OSError, FileError):
        return False
    return True


class DiskCorpus(Sequence[Passage]):
    """A corpus that stays on disk: passages are read one by one through a table of line offsets.

    The table (`offsets`, by default `<file>.offsets.npy`; 8 bytes per passage, memory-mapped) is written on first use
    in one pass. The file must be plain JSON lines with `id` and `contents`, none of them empty: others have no random
    access, and `retrievers.build_index` copies them.
    """

    def __init__(self, path: str | Path, *, verbatim_titles: bool = False, offsets: str | Path | None = None) -> None:
        self.path = Path(path)
        self.verbatim_titles = verbatim_titles
        if not self.path.is_file():
            raise CorpusError(f"{self.path}: no such file")
        if not has_random_access(self.path):
            raise CorpusError(
                f"{self.path}: not plain JSON lines with id and contents, which passages that stay on disk need; "
                "read it with load_corpus, or build an index of it, which copies it"
            )
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
        offsets, position = array("q"), 0  # 8 bytes per passage
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
            np.save(file, np.frombuffer(offsets, np.int64))

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
        passage = passage_of(row, where, self.verbatim_titles) if isinstance(row, dict) else None
        if passage is None:
            raise CorpusError(f"{where}: an empty passage; build an index of the corpus, which leaves it out")
        return passage

    def close(self) -> None:
        """Close the file; the corpus can't be read afterwards."""
        self.file.close()

    def __del__(self) -> None:
        if hasattr(self, "file"):  # not if it could not be opened
            self.close()
