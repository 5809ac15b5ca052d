"""Combines several retrievers over one corpus by reciprocal-rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrievers.base import CorpusError, Passage, RetrievalError, Retriever, search_in_part


class HybridRetriever(Retriever):
    """score(passage) = sum over retrievers of weight / (constant + rank), rank from 1; 0 if not found.

    Args:
        retrievers: two or more over the same corpus: passages are identified by their ids.
        depth: passages read from each list, independent of k, so results for a smaller k are a prefix of a larger.
        constant: reduces the weight of the first ranks (60 in the paper).
        weights: one per retriever; equal by default.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        *,
        depth: int = 100,
        constant: float = 60.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        sizes = [len(retriever) for retriever in retrievers]
        if len(sizes) < 2 or len(set(sizes)) > 1:
            raise CorpusError(f"retrievers over {sizes} passages: pass two or more over one corpus")
        if depth < 1 or constant < 0:
            raise ValueError(f"depth={depth}, constant={constant}: depth must be at least 1, constant at least 0")
        self.weights = [1.0] * len(sizes) if weights is None else list(weights)
        if len(self.weights) != len(sizes) or min(self.weights) <= 0:
            raise ValueError(f"weights={weights}: must be {len(sizes)} positive numbers, one per retriever")
        self.retrievers = list(retrievers)
        self.depth = min(depth, sizes[0])
        self.constant = constant

    @property
    def concurrency(self) -> int:
        """See `Retriever`: that of the retriever with the smallest one."""
        return min(retriever.concurrency for retriever in self.retrievers)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        if not queries:
            return []
        searches = [search_in_part(retriever, queries, self.depth) for retriever in self.retrievers]
        fused: list[list[Passage] | None] = []
        for lists in zip(*(found for found, _ in searches), strict=True):
            complete = [found for found in lists if found is not None]
            fused.append(self._fuse(complete)[:k] if len(complete) == len(lists) else None)
        if error := next((error for _, error in searches if error is not None), None):
            raise RetrievalError(str(error), fused if any(found is not None for found in fused) else None) from error
        return [found for found in fused if found is not None]

    def _fuse(self, found: Sequence[list[Passage]]) -> list[Passage]:
        scores: dict[str, float] = {}
        passages: dict[str, Passage] = {}
        for weight, ranked in zip(self.weights, found, strict=True):
            for rank, passage in enumerate(ranked, start=1):
                scores[passage.id] = scores.get(passage.id, 0.0) + weight / (self.constant + rank)
                passages.setdefault(passage.id, passage)
        # Sorting is stable: on equal scores, results of an earlier retriever come first.
        return [passages[id].with_score(scores[id]) for id in sorted(scores, key=lambda id: -scores[id])]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        return self.retrievers[0].sample(n, rng)

    def all_passages(self) -> Sequence[Passage] | None:
        return self.retrievers[0].all_passages()

    def fingerprint(self) -> dict[str, Any]:
        return {
            "engine": "reciprocal-rank fusion",
            "passages": len(self),
            "depth": self.depth,
            "constant": self.constant,
            "weights": self.weights,
            "retrievers": [retriever.fingerprint() for retriever in self.retrievers],
        }

    def close(self) -> None:
        for retriever in self.retrievers:
            retriever.close()

    def __len__(self) -> int:
        return len(self.retrievers[0])
