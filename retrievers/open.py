"""`open_retriever`: a search engine from the strings of configurations and command lines."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from retrievers.base import CorpusError, IndexMismatchError, Passage, Retriever
from retrievers.corpus import load_corpus
from retrievers.credentials import split
from retrievers.engines.source import KINDS, is_engine
from retrievers.formats.folders import has_parts, is_saved_dataset
from retrievers.formats.rows import format_of
from retrievers.hybrid import HybridRetriever
from retrievers.index.manifest import index_kind
from retrievers.service.wire import is_address

# Engines that a string can name: module and class, which has the methods of `Openable`. The first engine that accepts
# the string opens it. A module is imported only if the engines before it do not accept the string.
ENGINES = (
    ("retrievers.bm25", "BM25Retriever"),
    ("retrievers.dense", "DenseRetriever"),
    ("retrievers.remote", "RemoteRetriever"),
    ("retrievers.engines.elasticsearch", "ElasticsearchRetriever"),
    ("retrievers.engines.qdrant", "QdrantRetriever"),
    ("retrievers.engines.lucene", "LuceneRetriever"),
)


ENGINE = f"an engine ({', '.join(f'{kind}:...' for kind in KINDS)})"


class Openable(Protocol):
    """Methods that a class in `ENGINES` must have in addition to those of `Retriever`."""

    def opens(self, source: str) -> bool:
        """Whether this engine can open `source`: a word, a file, a folder or an address."""
        ...

    def open(self, source: str, corpus: str, passages: Sequence[Passage] | None) -> Retriever:
        """Open `source`. `passages`: those of `corpus` if that is a corpus file, else None."""
        ...


def open_retriever(corpus: str, retriever: str = "auto", rerank: str = "") -> Retriever:
    """Open a search engine.

    Args:
        corpus: a corpus file (.jsonl, .jsonl.gz), an index folder written by `retrievers.build_index`, the address of a
            retrieval service (replicas separated by commas), or an engine of `retrievers.engines`, such as
            `elasticsearch:http://HOST:9200/INDEX`.
        retriever: `auto` (BM25 over a corpus file, what an index folder holds, the service or the engine), or `bm25`,
            an index folder, an address, an engine; several joined by `+` are fused by rank: `bm25+indexes/minilm`.
        rerank: name or folder of a cross-encoder that reranks the results; "" for none.

    Raises `CorpusError`, `IndexMismatchError`, or `RetrievalError` if a service does not respond.
    """
    if retriever == "auto":
        engine = _open(corpus, "", None)
    else:
        other = is_address(corpus) or is_engine(corpus) or _is_index(corpus)
        passages = None if other else load_corpus(corpus)
        parts = [_open(part, corpus, passages) for part in split(retriever, "+")]
        engine = parts[0] if len(parts) == 1 else HybridRetriever(parts)
    if rerank:
        from retrievers.rerank import RerankingRetriever

        engine = RerankingRetriever(engine, rerank)
    return engine


def check_source(source: str) -> None:
    """Raise `CorpusError`, `IndexMismatchError` or `FileError` unless `source` is a corpus file or folder, or an index.

    Nothing of it is read but its first bytes.
    """
    path = Path(source)
    if not source.strip() or not path.exists():
        raise CorpusError(f"{source}: no such file or index folder; pass one, 'bm25', http://HOST:PORT or {ENGINE}")
    if _is_index(source):
        index_kind(source)
    elif path.is_file():
        format_of(path)
        if not path.stat().st_size:
            raise CorpusError(f"{source}: contains no passages; a corpus needs at least one")
    elif not (is_saved_dataset(path) or has_parts(path)):
        raise CorpusError(
            f"{source}: a folder without an index (no manifest.json) and without files of a corpus; pass a corpus "
            "file, or a folder that igsearch index has written"
        )


def _is_index(path: str) -> bool:
    return (Path(path) / "manifest.json").is_file()


def _open(source: str, corpus: str, passages: Sequence[Passage] | None) -> Retriever:
    if not source.strip():  # else it would be the current folder
        raise CorpusError(f"corpus or retriever is {source!r}; pass a file, a folder, http://HOST:PORT or {ENGINE}")
    for module, name in ENGINES:
        engine: Openable = getattr(import_module(module), name)
        if engine.opens(source):
            return engine.open(source, corpus, passages)
    if (kind := index_kind(source)) is not None:
        raise IndexMismatchError(f"{source}: no engine opens an index of kind {kind!r}; build the index again")
    raise CorpusError(f"{source}: no such file or index folder; pass one, 'bm25', http://HOST:PORT or {ENGINE}")
