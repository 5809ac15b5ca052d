"""`open_retriever`: a search engine from two words, as configurations and command lines name it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrievers.base import CorpusError, Passage, Retriever
from retrievers.bm25 import BM25Retriever
from retrievers.corpus import load_corpus
from retrievers.hybrid import HybridRetriever
from retrievers.index.manifest import read_manifest


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


def is_address(text: str) -> bool:
    """Whether this names a service rather than a file."""
    return text.startswith(("http://", "https://"))


def _is_index(path: str) -> bool:
    return (Path(path) / "manifest.json").is_file()


def _open(source: str, corpus: str, passages: Sequence[Passage] | None) -> Retriever:
    if is_address(source):
        from retrievers.remote import RemoteRetriever

        return RemoteRetriever(source.split(","), passages=passages)
    if source == "bm25":
        return BM25Retriever.load(corpus) if passages is None else BM25Retriever(passages)
    if Path(source).is_dir():
        manifest = read_manifest(Path(source))
        if manifest["kind"] == "bm25":
            return BM25Retriever.load(source)
        from retrievers.dense import DenseRetriever

        return DenseRetriever.load(source, passages=passages)
    if Path(source).is_file():
        return BM25Retriever(load_corpus(source))
    raise CorpusError(f"{source}: no such file or index folder; give one, 'bm25' or http://HOST:PORT")
