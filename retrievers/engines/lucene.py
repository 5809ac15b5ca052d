"""BM25 searches through a Lucene index of Anserini or Pyserini (Java runs inside this process, by Pyserini's jar)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.base import CorpusError, IndexMismatchError, Passage, RetrievalError, Retriever
from retrievers.engines.fields import OPTIONS, Fields, choose
from retrievers.engines.source import parse
from retrievers.reading import FileError, MissingPackageError, import_optional, one_line, parse_json
from retrievers.service.wire import unicode

FORM = "lucene:FOLDER?k1=0.9&b=0.4"
K1, B = 0.9, 0.4  # Anserini's defaults


class LuceneRetriever(Retriever):
    """Ranks by Anserini's BM25; order and equal scores are the engine's.

    Passages are what the index stores (the indexer's `--storeRaw` or `--storeContents`), or those of `passages`.

    Args:
        source: `lucene:FOLDER`, with the options `k1` and `b` of BM25, and `title`, `text` or `contents` for fields of
            the stored JSON, joined by `&` after a `?`.
        passages: the same corpus, if it is in memory, with the ids of the index.

    Raises `CorpusError` or `IndexMismatchError` for an index that does not fit, `MissingPackageError` without Pyserini
    or Java.
    """

    def __init__(self, source: str, *, passages: Sequence[Passage] | None = None) -> None:
        parsed = parse(source, FORM, (*OPTIONS, "k1", "b"))
        self.source = parsed.text
        self.folder = Path(parsed.whole)
        self.k1, self.b = (self._setting(parsed.options, name, default) for name, default in (("k1", K1), ("b", B)))
        segments = sorted(self.folder.glob("segments_*"))
        if not segments:
            raise CorpusError(f"{self.source}: {self.folder} holds no Lucene index; write it as {FORM}")
        self._segments = hashlib.sha256(b"".join(path.read_bytes() for path in segments)).hexdigest()[:16]
        self._java = _java(self.source)
        self._failure: type[Exception] = import_optional("jnius", "lucene", f"{self.source}:").JavaException
        try:
            self._searcher = _searcher_class(self._java, self._failure, self.source)(str(self.folder))
            self._searcher.set_bm25(self.k1, self.b)
            self._count = int(self._searcher.get_total_num_docs())
        except self._failure as error:
            raise IndexMismatchError(
                f"{self.source}: Lucene can't open it ({one_line(error)}); build it again"
            ) from error
        if not self._count or (passages is not None and len(passages) != self._count):
            raise IndexMismatchError(
                f"{self.source}: {self._count} documents"
                + (f" with a corpus of {len(passages)} passages" if passages is not None else "")
                + "; index the corpus first, one document for each passage"
            )
        self._passages = passages
        self._by_id = {passage.id: passage for passage in passages or ()}
        self.fields = Fields() if passages is not None else self._stored_fields(parsed.options)

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`."""
        return source.startswith("lucene:")

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> LuceneRetriever:
        """For `open_retriever`."""
        return cls(source, passages=passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        asked = [i for i, query in enumerate(queries) if query.strip()]
        found: list[list[Passage] | None] = [[] for _ in queries]
        texts, numbers = (self._java("java.util.ArrayList")() for _ in range(2))
        for i in asked:
            texts.add(_text(queries[i]))
            numbers.add(str(i))
        try:
            results = self._searcher.batch_search(texts, numbers, k, os.cpu_count() or 1) if asked else {}
        except self._failure as error:
            raise RetrievalError(f"{self.source}: Lucene failed ({one_line(error)})") from error
        failed = []
        for i in asked:
            hits = results.get(str(i))
            if hits is None:  # an exception in its thread, which Anserini drops
                failed.append(i)
                found[i] = None
            else:
                found[i] = [self._passage(hit.docid, hit.lucene_docid, float(hit.score)) for hit in hits]
        if failed:
            raise RetrievalError(
                f"{self.source}: Lucene failed for {len(failed)} of {len(asked)} queries: {queries[failed[0]][:60]!r}",
                found if len(failed) < len(asked) else None,
            )
        return [passages for passages in found if passages is not None]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        self.check_count(n, "n")
        numbers = [int(i) for i in rng.choice(self._count, n, replace=False)]
        if self._passages is not None:
            return [self._passages[i] for i in numbers]
        return [self._passage(None, i, 0.0) for i in numbers]

    def fingerprint(self) -> dict[str, Any]:
        """`segments` is a hash of the index's table of segments, which every change of the index replaces."""
        return {
            "engine": "lucene",
            "index": self.folder.name,
            "segments": self._segments,
            "k1": self.k1,
            "b": self.b,
            "fields": self.fields.names,
            "passages": len(self),
        }

    def close(self) -> None:
        self._searcher.close()

    def __len__(self) -> int:
        return self._count

    def _passage(self, id: str | None, number: int, score: float) -> Passage:
        """The passage of a document, by Lucene's number of it."""
        if self._passages is not None:
            if id not in self._by_id:
                raise IndexMismatchError(
                    f"{self.source}: the corpus has no passage {id!r}; pass the corpus of the index"
                )
            return self._by_id[id].with_score(score)
        stored = self._stored(number)
        return self.fields.passage(str(stored["id"]), stored, self.source, score)

    def _stored(self, number: int) -> dict[str, Any]:
        """What a document stores: its JSON, or its contents."""
        document = self._searcher.doc(number)
        if document is None:  # of a document that was deleted
            raise IndexMismatchError(f"{self.source}: document number {number} was deleted; build the index again")
        id, raw = document.get("id"), document.get("raw")
        if raw is None:
            contents = document.get("contents")
            return {"id": id} if contents is None else {"id": id, "contents": contents}
        try:
            value = parse_json(raw.encode("utf-8", "replace"), f"document {id!r}")
        except FileError:
            value = {"contents": raw}  # a collection of plain texts
        return {**value, "id": id} if isinstance(value, dict) else {"id": id}

    def _stored_fields(self, options: dict[str, str]) -> Fields:
        existing = [name for name in self._stored(0) if name != "id"]
        if not existing:
            raise CorpusError(
                f"{self.source}: its documents store neither JSON nor contents; pass the corpus as a file "
                "(--corpus FILE --retriever lucene:FOLDER), or index it with --storeRaw"
            )
        return choose(options, existing, self.source)

    def _setting(self, options: dict[str, str], name: str, default: float) -> float:
        try:
            value = float(options.get(name, default))
        except ValueError:
            value = -1.0
        if not 0 <= value <= (1 if name == "b" else 100):
            raise CorpusError(f"{self.source}: {name}={options[name]}: k1 must be from 0 to 100, b from 0 to 1")
        return value


def _java(needed_by: str) -> Any:
    """The function that gives a Java class by name, with Anserini among the known ones."""
    try:
        return import_optional("pyserini.pyclass", "lucene", f"{needed_by}:").autoclass
    except MissingPackageError:
        raise
    except Exception as error:  # no Java, or one that is too old for the jar
        raise MissingPackageError(
            f"{needed_by}: Java can't be started ({one_line(error)}); install the Java that this version of Pyserini "
            "needs (21 for recent ones), and set JAVA_HOME"
        ) from error


def _searcher_class(java: Any, failure: type[Exception], needed_by: str) -> Any:
    """Anserini's class of searchers."""
    try:
        return java("io.anserini.search.SimpleSearcher")
    except failure as error:
        raise MissingPackageError(
            f"{needed_by}: this Java can't run Pyserini's jar ({one_line(error)}); set JAVA_HOME to the version that "
            "Pyserini needs (21 or newer for recent ones), or install another Pyserini"
        ) from error


def _text(query: str) -> str:
    """A query as Java takes it."""
    return unicode(query).replace("\0", " ")
