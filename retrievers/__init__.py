"""Search engines behind one small interface, independent of reinforcement learning.

All but the interface is imported on first access, so that programs start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from retrievers.base import (
    CorpusError,
    CorpusRetriever,
    IndexMismatchError,
    Passage,
    QueryError,
    RetrievalError,
    Retriever,
    RetrieverError,
)

if TYPE_CHECKING:
    from retrievers.bm25 import BM25Retriever
    from retrievers.corpus import DiskCorpus, corpus_hash, load_corpus
    from retrievers.dense import DenseRetriever
    from retrievers.dictionary import DictionaryRetriever
    from retrievers.hybrid import HybridRetriever
    from retrievers.index.encoder import SentenceEncoder
    from retrievers.index.remote_encoder import RemoteEncoder
    from retrievers.noisy import NoisyRetriever
    from retrievers.open import open_retriever
    from retrievers.remote import RemoteRetriever
    from retrievers.replay import RecordingRetriever, ReplayRetriever
    from retrievers.rerank import RerankingRetriever

_LATER = {
    "BM25Retriever": "retrievers.bm25",
    "DenseRetriever": "retrievers.dense",
    "DictionaryRetriever": "retrievers.dictionary",
    "DiskCorpus": "retrievers.corpus",
    "HybridRetriever": "retrievers.hybrid",
    "NoisyRetriever": "retrievers.noisy",
    "RecordingRetriever": "retrievers.replay",
    "RemoteEncoder": "retrievers.index.remote_encoder",
    "RemoteRetriever": "retrievers.remote",
    "ReplayRetriever": "retrievers.replay",
    "RerankingRetriever": "retrievers.rerank",
    "SentenceEncoder": "retrievers.index.encoder",
    "corpus_hash": "retrievers.corpus",
    "load_corpus": "retrievers.corpus",
    "open_retriever": "retrievers.open",
}

__all__ = [
    "BM25Retriever",
    "CorpusError",
    "CorpusRetriever",
    "DenseRetriever",
    "DictionaryRetriever",
    "DiskCorpus",
    "HybridRetriever",
    "IndexMismatchError",
    "NoisyRetriever",
    "Passage",
    "QueryError",
    "RecordingRetriever",
    "RemoteEncoder",
    "RemoteRetriever",
    "ReplayRetriever",
    "RerankingRetriever",
    "RetrievalError",
    "Retriever",
    "RetrieverError",
    "SentenceEncoder",
    "corpus_hash",
    "load_corpus",
    "open_retriever",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
