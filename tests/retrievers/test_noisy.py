"""Noise in search results: the same for the same query, of the share asked for, and the contract of retrievers."""

from __future__ import annotations

import pytest
from failing_retriever import FailsFor

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import BM25Retriever, NoisyRetriever, Passage, QueryError, RetrievalError

BM25 = BM25Retriever(CORPUS)
MANY = BM25Retriever([Passage(str(number), f"Page {number}", f"river number {number}") for number in range(500)])
ASKED = [f"river {number}" for number in range(400)]


class TestReplacing(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> NoisyRetriever:
        return NoisyRetriever(BM25, replaced=0.5)


def lost(noisy: NoisyRetriever) -> tuple[float, float]:
    """The shares of the results of `MANY` that are replaced and missing."""
    replaced = missing = 0
    for right, found in zip(MANY.search(ASKED, 5), noisy.search(ASKED, 5), strict=True):
        replaced += len({p.id for p in found} - {p.id for p in right})
        missing += len(right) - len(found)
    return replaced / (5 * len(ASKED)), missing / (5 * len(ASKED))


def test_the_shares_of_results_are_those_asked_for() -> None:
    """Within four standard deviations of 2,000 draws; a random passage is rarely one of the right ones."""
    assert lost(NoisyRetriever(MANY)) == (0, 0)
    assert lost(NoisyRetriever(MANY, replaced=0.2)) == pytest.approx((0.2, 0.0), abs=0.036)
    assert lost(NoisyRetriever(MANY, dropped=0.2)) == pytest.approx((0.0, 0.2), abs=0.036)
    assert lost(NoisyRetriever(MANY, replaced=0.1, dropped=0.3)) == pytest.approx((0.1, 0.3), abs=0.042)


def test_a_query_has_the_same_results_in_any_batch() -> None:
    noisy = NoisyRetriever(MANY, replaced=0.3, dropped=0.3, seed=1)
    together = noisy.search(ASKED[:50], 5)
    assert [noisy.search([query], 5)[0] for query in reversed(ASKED[:50])] == together[::-1]
    assert NoisyRetriever(MANY, replaced=0.3, dropped=0.3, seed=2).search(ASKED[:50], 5) != together
    assert [found[: len(few)] for few, found in zip(noisy.search(ASKED[:50], 2), together, strict=True)] == (
        noisy.search(ASKED[:50], 2)
    )


def test_everything_may_be_missing() -> None:
    assert NoisyRetriever(BM25, dropped=1.0).search(QUERIES, 3) == [[] for _ in QUERIES]


def test_queries_that_failed_stay_failed() -> None:
    right = NoisyRetriever(BM25, replaced=0.5).search(["capital"], 2)
    with pytest.raises(RetrievalError, match="out of reach") as caught:
        NoisyRetriever(FailsFor("river"), replaced=0.5).search(["capital", "river"], 2)
    assert caught.value.results == [right[0], None]


@pytest.mark.parametrize(("replaced", "dropped"), [(-0.1, 0.0), (0.0, float("nan")), (0.6, 0.6)])
def test_shares_out_of_range_are_refused(replaced: float, dropped: float) -> None:
    with pytest.raises(QueryError, match="must be shares of the results"):
        NoisyRetriever(BM25, replaced=replaced, dropped=dropped)


def test_the_fingerprint_has_what_decides_the_results() -> None:
    one = NoisyRetriever(BM25, replaced=0.1, seed=3).fingerprint()
    assert one["retriever"] == BM25.fingerprint()
    assert one != NoisyRetriever(BM25, replaced=0.1, seed=4).fingerprint()
    assert one != NoisyRetriever(BM25, replaced=0.2, seed=3).fingerprint()
