"""A retriever that looks queries up in a dictionary: for tests, examples and speed measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrievers.base import CorpusError, CorpusRetriever, Passage


class DictionaryRetriever(CorpusRetriever):
    """Answers the exact queries of `results`; every other query returns no passages.

    `results` maps a query to its passages, best first. The corpus is all of them, by id.
    """

    def __init__(self, results: Mapping[str, Sequence[Passage]]) -> None:
        self.results = {query: list(passages) for query, passages in results.items()}
        self.passages = list({p.id: p.with_score(0.0) for found in self.results.values() for p in found}.values())
        if not self.passages:
            raise CorpusError("the dictionary contains no passage: pass at least one query with one passage")

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        return [self.results.get(query, [])[:k] for query in queries]
