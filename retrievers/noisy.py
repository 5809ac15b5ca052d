"""A search engine that loses results: some are replaced by random passages, some are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrievers.base import Passage, QueryError, RetrievalError, Retriever, WrappingRetriever, search_in_part
from retrievers.random_streams import random_stream


class NoisyRetriever(WrappingRetriever):
    """Replaces or drops results of another retriever, each independently of the others.

    The draws depend on the seed, the query and the rank alone: a repeated query has the same results, in any batch, and
    those for a smaller k are the first of those for a larger one. Another query for the same passage draws again. A
    random passage has the score of the one that it replaces; if it is among the results before, it is left out.

    Args:
        retriever: whose results are changed.
        replaced: share of results that a random passage of the corpus stands in for.
        dropped: share of results that are missing, so that a list is shorter than k.
        seed: of the draws.
    """

    def __init__(self, retriever: Retriever, *, replaced: float = 0.0, dropped: float = 0.0, seed: int = 0) -> None:
        if not (replaced >= 0 and dropped >= 0 and replaced + dropped <= 1):
            raise QueryError(
                f"replaced={replaced!r}, dropped={dropped!r}: must be shares of the results, at least 0 and together "
                "at most 1"
            )
        self.retriever = retriever
        self.replaced, self.dropped, self.seed = replaced, dropped, seed

    @property
    def concurrency(self) -> int:
        return self.retriever.concurrency

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        results, error = search_in_part(self.retriever, queries, k)
        noisy = [None if found is None else self._lose(q, found) for q, found in zip(queries, results, strict=True)]
        if error is not None:
            raise RetrievalError(str(error), noisy) from error
        return [found for found in noisy if found is not None]

    def _lose(self, query: str, found: list[Passage]) -> list[Passage]:
        kept: dict[str, Passage] = {}
        for rank, passage in enumerate(found):
            rng = random_stream("noise of a search", self.seed, query, rank)
            draw = rng.random()
            if draw < self.replaced:
                passage = self.retriever.sample(1, rng)[0].with_score(passage.score)
            if draw < self.replaced or draw >= self.replaced + self.dropped:
                kept.setdefault(passage.id, passage)
        return list(kept.values())

    def fingerprint(self) -> dict[str, Any]:
        return {
            "engine": "noisy",
            "passages": len(self),
            "replaced": self.replaced,
            "dropped": self.dropped,
            "seed": self.seed,
            "retriever": self.retriever.fingerprint(),
        }
