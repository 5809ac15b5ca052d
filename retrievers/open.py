"""`open_retriever`: a search engine from two words, as configurations and command lines name it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from retrievers.base import CorpusError, IndexMismatchError, Passage, Retriever
from retrievers.corpus import load_corpus
from retrievers.hybrid import HybridRetriever
from retrievers.index.manifest import index_kind
from retrievers.service.wire import is_address

# Every engine that words can name: its module and its class, which has the methods of `Openable`. The first that opens
# a word takes it. A module is imported when the ones before it do not take the word.
ENGINES = (
    ("retrievers.bm25", "BM25Retriever"),
    ("retrievers.dense", "DenseRetriever"),
    ("retrievers.remote", "RemoteRetriever"),
)


class Openable(Protocol):
    """What a class in `ENGINES` must have beside the methods of `Retriever`."""

    def opens(self, source: str) -> bool:
        """Whether this engine is what `source` names: a word, a file, a folder or an address."""
        ...

    def open(self, source: str, corpus: str, passages: Sequence[Passage] | None) -> Retriever:
        """Open `source`. `passages`: those of `corpus` where that is a corpus file, else None."""
        ...


def open_retriever(corpus: str, retriever: str = "auto", rerank: str = "") -> Retriever:
    """Open a search engine.

    Args:
        corpus: a corpus file (.jsonl, .jsonl.gz), an index folder that `retrievers.build_index` wrote, or the
            address of a retrieval service (replicas separated by commas).
        retriever: `auto` (BM25 over a corpus file, what an index folder holds, or the service), or `bm25`, an
            index folder, an address; several joined by `+` are fused by rank, e.g. `bm25+indexes/minilm`.
        rerank: name or folder of a cross-encoder that orders what was found anew; "" for none.

    Raises `CorpusError`, `IndexMismatchError`, or `RetrievalError` from a service that does not answer.
    """
    if retriever == "auto":
        engine = _open(corpus, "", None)
    else:
        passages = None if is_address(corpus) or _is_index(corpus) else load_corpus(corpus)
        parts = [_open(part, corpus, passages) for part in retriever.split("+")]
        engine = parts[0] if len(parts) == 1 else HybridRetriever(parts)
    if rerank:
        from retrievers.rerank import RerankingRetriever

        engine = RerankingRetriever(engine, rerank)
    return engine


def _is_index(path: str) -> bool:
    return (Path(path) / "manifest.json").is_file()


def _open(source: str, corpus: str, passages: Sequence[Passage] | None) -> Retriever:
    for module, name in ENGINES:
        engine: Openable = getattr(import_module(module), name)
        if engine.opens(source):
            return engine.open(source, corpus, passages)
    if (kind := index_kind(source)) is not None:
        raise IndexMismatchError(f"{source}: no engine opens an index of kind {kind!r}; build the index again")
    raise CorpusError(f"{source}: no such file or index folder; give one, 'bm25' or http://HOST:PORT")
