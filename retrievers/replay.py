"""Record the results of a retriever and replay them: a run is reproduced bit for bit without its index.

A record is in JSON lines: a header with the corpus, then one line per distinct search and per draw of random passages.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.base import IndexMismatchError, Passage, QueryError, Retriever
from retrievers.reading import FileError, parse_json, read_lines

FORMAT = 2


class RecordingRetriever(Retriever):
    """Forwards all calls to another retriever and records its results.

    Args:
        retriever: the retriever to record.
        path: file of the record. An existing record is extended if it is of the same corpus.
        corpus: identity of the corpus, e.g. `corpus_hash(passages)`.
    """

    def __init__(self, retriever: Retriever, path: str | Path, corpus: str) -> None:
        self.retriever = retriever
        path = Path(path)
        header = {
            "format": FORMAT,
            "corpus": corpus,
            "passages": len(retriever),
            "fingerprint": retriever.fingerprint(),
        }
        self._known: dict[str, Any] = {}
        if path.is_file():
            before, self._known = _read(path)
            if before != header:
                raise IndexMismatchError(f"{path}: a record of {before}, but this is {header}; use another path")
        self._lock = threading.Lock()  # of the record: several threads may search
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the retriever)
        if self._file.tell() == 0:
            self._write(header)

    @property
    def concurrency(self) -> int:
        """See `Retriever`."""
        return self.retriever.concurrency

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        found = self.retriever.search(queries, k)
        with self._lock:
            for query, passages in zip(queries, found, strict=True):
                self._add({"query": query, "k": k, "found": _rows(passages)})
        return found

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        before = _state(rng)
        found = self.retriever.sample(n, rng)
        with self._lock:
            self._add({"sample": n, "rng": before, "after": rng.bit_generator.state, "found": _rows(found)})
        return found

    def all_passages(self) -> Sequence[Passage] | None:
        return self.retriever.all_passages()

    def __len__(self) -> int:
        return len(self.retriever)

    def fingerprint(self) -> dict[str, Any]:
        return self.retriever.fingerprint()

    def close(self) -> None:
        self._file.close()
        self.retriever.close()

    def _add(self, row: dict[str, Any]) -> None:
        if _key(row) not in self._known:
            self._known[_key(row)] = row
            self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


class ReplayRetriever(Retriever):
    """Answers from a record only; calls that were not recorded raise `QueryError`.

    Args:
        path: a file written by `RecordingRetriever`.
        corpus: required identity of the recorded corpus; None: any.
    """

    def __init__(self, path: str | Path, corpus: str | None = None) -> None:
        self.path = Path(path)
        header, self._known = _read(self.path)
        if corpus is not None and header["corpus"] != corpus:
            raise IndexMismatchError(
                f"{path}: recorded with corpus {header['corpus']!r}, but {corpus!r} is required; record again"
            )
        self._length = int(header["passages"])
        self._fingerprint: dict[str, Any] = header["fingerprint"]

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        return [_passages(self._row({"query": query, "k": k})) for query in queries]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        self.check_count(n, "n")
        row = self._row({"sample": n, "rng": _state(rng)})
        try:
            rng.bit_generator.state = row["after"]  # the state that the recorded draw left
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise QueryError(f"{self.path}: a draw has no state of a generator ({error}); record again") from error
        return _passages(row)

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint

    def __len__(self) -> int:
        return self._length

    def _row(self, asked: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] | None = self._known.get(_key(asked))
        if row is None:
            raise QueryError(f"{self.path}: {asked} was not recorded; replay exactly the run that was recorded")
        return row


def _key(row: dict[str, Any]) -> str:
    if "query" in row:
        return f"search {row['k']} {row['query']}"
    return f"sample {row['sample']} {row['rng']}"


def _state(rng: np.random.Generator) -> str:
    """A short hash of a generator's state."""
    return hashlib.sha256(json.dumps(rng.bit_generator.state, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _rows(passages: Sequence[Passage]) -> list[list[Any]]:
    return [[p.id, p.title, p.text, p.score] for p in passages]


def _passages(row: dict[str, Any]) -> list[Passage]:
    return [Passage(*fields) for fields in row["found"]]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and rows by key. An incomplete last line is removed from the file."""
    if not path.is_file():
        raise IndexMismatchError(f"{path}: no such file; pass a record written by RecordingRetriever")
    header: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    size = 0
    try:
        for number, raw in read_lines(path):
            if not raw.endswith(b"\n"):
                os.truncate(path, size)
                break
            size += len(raw)
            row = parse_json(raw, f"{path}, line {number}")
            if number == 1:
                header = _header(row, path)
            else:
                _check_row(row, f"{path}, line {number}")
                rows[_key(row)] = row
    except FileError as error:
        raise IndexMismatchError(f"{path}: not a record of searches ({error.inside(path)}); record again") from error
    if not header:
        raise IndexMismatchError(f"{path}: not a record of searches (it has no line); record again")
    return header, rows


def _header(row: Any, path: Path) -> dict[str, Any]:
    types = {"format": int, "corpus": str, "passages": int, "fingerprint": dict}
    if not isinstance(row, dict) or not isinstance(row.get("format"), int):
        raise FileError(f"{path}, line 1", "it has no format")
    if row["format"] != FORMAT:
        raise IndexMismatchError(f"{path}: format {row['format']!r}, this version reads {FORMAT}; record again")
    for key, kind in types.items():
        if not isinstance(row.get(key), kind):
            raise FileError(f"{path}, line 1", f"{key} is not a {kind.__name__}")
    return row


def _check_row(row: Any, where: str) -> None:
    """Raise `FileError` unless a row is a search or a draw, with passages as `_passages` makes them."""
    if not isinstance(row, dict):
        raise FileError(where, f"a {type(row).__name__}")
    search = isinstance(row.get("query"), str) and isinstance(row.get("k"), int)
    draw = isinstance(row.get("rng"), str) and isinstance(row.get("sample"), int) and isinstance(row.get("after"), dict)
    found = row.get("found")
    if not (search or draw) or not isinstance(found, list):
        raise FileError(where, "neither a search nor a draw")
    for passage in found:
        match passage:
            case [str(), str(), str(), int() | float()]:
                pass
            case _:
                raise FileError(where, f"{str(passage)[:80]!r} is not a passage")
