"""Search engines behind one small interface. Knows nothing of reinforcement learning."""

from retrievers.base import (
    CorpusError,
    IndexMismatchError,
    Passage,
    QueryError,
    RetrievalError,
    Retriever,
    RetrieverError,
)
from retrievers.bm25 import BM25Retriever
from retrievers.corpus import DiskCorpus, corpus_hash, load_corpus
from retrievers.dictionary import DictionaryRetriever
from retrievers.hybrid import HybridRetriever
from retrievers.replay import RecordingRetriever, ReplayRetriever

__all__ = [
    "BM25Retriever",
    "CorpusError",
    "DictionaryRetriever",
    "DiskCorpus",
    "HybridRetriever",
    "IndexMismatchError",
    "Passage",
    "QueryError",
    "RecordingRetriever",
    "ReplayRetriever",
    "RetrievalError",
    "Retriever",
    "RetrieverError",
    "corpus_hash",
    "load_corpus",
]
