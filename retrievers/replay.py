"""Record the results of a retriever and replay them: a run is reproduced bit for bit without its index.

A record is in JSON lines: a header with the corpus, then one line per distinct search and per draw of random passages.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.base import IndexMismatchError, Passage, QueryError, Retriever

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
        self._lock = threading.Lock()  # rollouts search while another thread draws random passages
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the retriever)
        if self._file.tell() == 0:
            self._write(header)

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
        rng.bit_generator.state = row["after"]  # the state that the recorded draw left
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
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        header, *rows = [json.loads(line) for line in whole.splitlines()]
        version = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise IndexMismatchError(f"{path}: not a record of searches ({error}); record again") from error
    if version != FORMAT:
        raise IndexMismatchError(f"{path}: format {version!r}, this version reads {FORMAT}; record again")
    if len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return header, {_key(row): row for row in rows}
