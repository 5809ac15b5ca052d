"""`RetrieverContract`: the tests that every retriever passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrievers import Passage, QueryError, Retriever

CORPUS = [
    Passage("10", "France", "France is a country in Europe. Its capital is Paris."),
    Passage("11", "Paris", "Paris is the capital and largest city of France, on the Seine."),
    Passage("12", "Berlin", "Berlin is the capital of Germany, on the Spree."),
    Passage("13", "Seine", "The Seine is a river in northern France."),
    Passage("14", "Marie Curie", "Marie Curie worked in Paris as a physicist."),
    Passage("15", "Lisbon", "Lisbon lies at the mouth of the Tagus."),
    Passage("16", "Herring", "The herring is a small fish that lives in shoals."),
    Passage("17", "Herring", "The herring is a small fish that lives in shoals."),
]
QUERIES = ["capital of France", "river", "Where did Marie Curie work?", "the mouth of the Tagus", "small herring"]


class RetrieverContract:
    """Tests of the interface, for any ranking. Inherit it and define the fixture `retriever`:

        class TestMyRetriever(RetrieverContract):
            @pytest.fixture
            def retriever(self) -> MyRetriever:
                return MyRetriever(CORPUS)

    Every query of `QUERIES` must find a passage of `CORPUS`.
    """

    @pytest.fixture
    def retriever(self) -> Any:
        """A retriever over `CORPUS`."""
        raise NotImplementedError

    @pytest.mark.parametrize("k", [1, 2, 3, len(CORPUS)])
    def test_one_list_per_query_of_at_most_k(self, retriever: Retriever, k: int) -> None:
        found = retriever.search(QUERIES, k)
        assert len(found) == len(QUERIES)
        assert all(1 <= len(passages) <= k for passages in found)

    def test_best_first(self, retriever: Retriever) -> None:
        for passages in retriever.search(QUERIES, len(CORPUS)):
            scores = [passage.score for passage in passages]
            assert all(isinstance(score, float) for score in scores)
            assert scores == sorted(scores, reverse=True)

    def test_finds_passages_of_the_corpus_each_once(self, retriever: Retriever) -> None:
        corpus = {passage.id: passage for passage in CORPUS}
        for passages in retriever.search(QUERIES, len(CORPUS)):
            assert all(passage.with_score(0.0) == corpus[passage.id] for passage in passages)
            assert len({passage.id for passage in passages}) == len(passages)

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_fewer_are_the_first_of_more(self, retriever: Retriever, k: int) -> None:
        assert retriever.search(QUERIES, k) == [all_[:k] for all_ in retriever.search(QUERIES, len(CORPUS))]

    def test_batch_is_the_same_as_one_by_one(self, retriever: Retriever) -> None:
        batch = retriever.search([*QUERIES, QUERIES[0]], 3)
        assert batch == [retriever.search([query], 3)[0] for query in [*QUERIES, QUERIES[0]]]

    def test_is_deterministic(self, retriever: Retriever) -> None:
        assert retriever.search(QUERIES, 4) == retriever.search(QUERIES, 4)

    def test_no_query_finds_no_list(self, retriever: Retriever) -> None:
        assert retriever.search([], 3) == []

    @pytest.mark.parametrize("query", ["", "   \n"])
    def test_empty_query_finds_nothing(self, retriever: Retriever, query: str) -> None:
        first, second = retriever.search([query, QUERIES[0]], 2)
        assert first == []
        assert second == retriever.search([QUERIES[0]], 2)[0]

    @pytest.mark.parametrize("k", [0, -1, len(CORPUS) + 1])
    def test_k_out_of_range_is_named(self, retriever: Retriever, k: int) -> None:
        with pytest.raises(QueryError, match=rf"k={k} .*{len(CORPUS)} passages"):
            retriever.search(QUERIES, k)

    def test_bare_string_is_refused(self, retriever: Retriever) -> None:
        with pytest.raises(QueryError, match=r"'capital of France'.*list"):
            retriever.search("capital of France", 2)

    @pytest.mark.parametrize("query", [None, 7, b"river"])
    def test_query_that_is_no_string_is_refused(self, retriever: Retriever, query: Any) -> None:
        with pytest.raises(QueryError, match=f"{type(query).__name__}.*string"):
            retriever.search(["river", query], 2)

    def test_query_of_a_megabyte_is_refused(self, retriever: Retriever) -> None:
        with pytest.raises(QueryError, match=r"query 'river river.*has 1200000 characters: at most 65536; shorten it"):
            retriever.search(["river", "river " * 200_000], 2)

    @pytest.mark.parametrize("n", [1, 3, len(CORPUS)])
    def test_sample_is_distinct_and_of_the_corpus(self, retriever: Retriever, n: int) -> None:
        drawn = retriever.sample(n, np.random.default_rng(0))
        assert len({passage.id for passage in drawn}) == len(drawn) == n
        assert set(drawn) <= set(CORPUS)

    def test_sample_depends_on_its_generator_alone(self, retriever: Retriever) -> None:
        first = [passage.id for passage in retriever.sample(4, np.random.default_rng(3))]
        retriever.search(QUERIES, 2)
        assert [passage.id for passage in retriever.sample(4, np.random.default_rng(3))] == first
        others = [[passage.id for passage in retriever.sample(4, np.random.default_rng(s))] for s in range(10, 15)]
        assert any(other != first for other in others)

    def test_sample_reaches_every_passage(self, retriever: Retriever) -> None:
        rng = np.random.default_rng(0)
        assert {retriever.sample(1, rng)[0].id for _ in range(200)} == {passage.id for passage in CORPUS}

    @pytest.mark.parametrize("n", [0, len(CORPUS) + 1])
    def test_sample_out_of_range_is_named(self, retriever: Retriever, n: int) -> None:
        with pytest.raises(QueryError, match=rf"n={n} .*{len(CORPUS)} passages"):
            retriever.sample(n, np.random.default_rng(0))

    def test_length_is_the_corpus(self, retriever: Retriever) -> None:
        assert len(retriever) == len(CORPUS)
