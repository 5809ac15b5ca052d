"""Reranking of another retriever's results by a model that reads query and passage together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.base import Passage, QueryError, RetrievalError, Retriever, WrappingRetriever, search_in_part
from retrievers.index.encoder import EncoderError, check_modules
from retrievers.reading import import_optional

# Relevance of (query, passage) pairs, one number each, higher is better.
Scorer = Callable[[list[tuple[str, str]]], Sequence[float]]


class RerankingRetriever(WrappingRetriever):
    """Reranks the first `depth` passages of another retriever by a cross-encoder's scores.

    Deeper passages are not scored: they follow in their original order, with the lowest of the model's scores. So k may
    be larger than `depth`, and the results for a smaller k are a prefix of those for a larger one.

    Args:
        retriever: returns the candidates.
        model: name or folder of a cross-encoder of sentence-transformers with one output, or a scoring function.
        depth: candidates per query, independent of k.
        batch_size: pairs that a cross-encoder reads at once.
    """

    def __init__(self, retriever: Retriever, model: str | Scorer, *, depth: int = 50, batch_size: int = 32) -> None:
        if depth < 1 or batch_size < 1:
            raise QueryError(f"depth={depth}, batch_size={batch_size}: both must be at least 1")
        self.retriever = retriever
        self.depth = min(depth, len(retriever))
        self._score = _cross_encoder(model, batch_size) if isinstance(model, str) else model
        self._name = Path(model).name if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        results, error = search_in_part(self.retriever, queries, max(self.depth, k))
        found = [passages or [] for passages in results]
        reranked = self._rerank(queries, found, k)
        if error is None:
            return reranked
        failed = [passages is None for passages in results]
        raise RetrievalError(
            str(error), [None if missing else new for missing, new in zip(failed, reranked, strict=True)]
        ) from error

    def _rerank(self, queries: Sequence[str], found: list[list[Passage]], k: int) -> list[list[Passage]]:
        candidates = [passages[: self.depth] for passages in found]
        pairs = [(q, f"{p.title}\n{p.text}") for q, passages in zip(queries, candidates, strict=True) for p in passages]
        if not pairs:
            return [passages[:k] for passages in found]
        scores = np.asarray(self._score(pairs), np.float64)
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise RetrievalError(
                f"{self._name} returned scores of shape {scores.shape} for {len(pairs)} pairs, "
                f"{np.isfinite(scores).sum()} of them finite: it must return one finite number per pair"
            )
        ends = np.cumsum([len(passages) for passages in candidates])[:-1]
        return [self._reorder(passages, own)[:k] for passages, own in zip(found, np.split(scores, ends), strict=True)]

    def _reorder(self, passages: list[Passage], scores: np.ndarray[Any, np.dtype[np.float64]]) -> list[Passage]:
        order = np.argsort(-scores, kind="stable")  # ties keep the order of the retriever
        best = [passages[i].with_score(float(scores[i])) for i in order]
        return best + [passage.with_score(best[-1].score) for passage in passages[self.depth :]]

    def fingerprint(self) -> dict[str, Any]:
        return {
            "engine": "rerank",
            "passages": len(self),
            "model": self._name,
            "depth": self.depth,
            "retriever": self.retriever.fingerprint(),
        }


def _cross_encoder(name: str, batch_size: int) -> Scorer:
    library = import_optional("sentence_transformers", "dense", f"rerank={name!r}")

    check_modules(name)
    try:
        model = library.CrossEncoder(name, trust_remote_code=False)
    except Exception as error:  # a damaged folder gives errors of torch, transformers, safetensors and tokenizers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(f"{name}: can't be loaded as a cross-encoder ({reason}); pass a name or a folder") from error
    if model.num_labels != 1:
        raise EncoderError(f"{name} has {model.num_labels} outputs: a cross-encoder for ranking has one; use another")

    def score(pairs: list[tuple[str, str]]) -> Sequence[float]:
        scores: Sequence[float] = model.predict(pairs, batch_size=batch_size, show_progress_bar=False)
        return scores

    return score
