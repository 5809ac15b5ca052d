"""A search engine that fails for some queries."""

from __future__ import annotations

from collections.abc import Sequence

from igsearch.testing.retriever_contract import CORPUS
from retrievers import BM25Retriever, Passage, RetrievalError


class FailsFor(BM25Retriever):
    """Fails for some of the queries."""

    def __init__(self, *failing: str) -> None:
        super().__init__(CORPUS)
        self.failing = failing

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        found = super().search(queries, k)
        if set(self.failing) & set(queries):
            raise RetrievalError(
                "out of reach", [None if q in self.failing else p for q, p in zip(queries, found, strict=True)]
            )
        return found
