"""Random evidence: whose it is, what it never is, and what a draw depends on."""

from __future__ import annotations

import random

import pytest
from helpers import ELSEWHERE, LengthScorer, measured, one_search
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env import ConfigurationError, InformationGain, InformationGainConfig
from igsearch_env.evidence import SearchStep, search_steps
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from retrievers import DictionaryRetriever, Passage

POOL = [Passage(f"r{i}", f"T{i}", "word " * (i + 1)) for i in range(6)]
# (question, found passage) of each search of a batch: questions may have found the same.
BATCH = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=12)


def batch(pairs: list[tuple[int, int]]) -> list[SearchStep]:
    """One search a pair."""
    return [one_search(question, POOL[found]) for question, found in pairs]


def gain(seed: int = 0, **config: object) -> InformationGain:
    """A measure whose scores tell texts of different lengths apart."""
    return InformationGain(InformationGainConfig(**config), LengthScorer(), make_protocol(), ELSEWHERE, seed)  # type: ignore[arg-type]


@given(BATCH, st.integers(0, 3))
def test_never_of_the_own_question_and_never_the_same_passages(pairs: list[tuple[int, int]], seed: int) -> None:
    requests, _ = measured(batch(pairs), seed=seed)
    for (own, found), request in zip(pairs, requests, strict=True):
        allowed = {f"Title: T{other})" for question, other in pairs if question != own and other != found}
        for evidence in request.evidences[1:]:
            assert "Elsewhere" in evidence.text or any(title in evidence.text for title in allowed)
            assert evidence.text != request.evidences[0].text


@given(BATCH, st.randoms(use_true_random=False), st.integers(0, 3))
def test_does_not_depend_on_batch_order(pairs: list[tuple[int, int]], shuffler: random.Random, seed: int) -> None:
    steps = batch(pairs)
    order = list(range(len(steps)))
    shuffler.shuffle(order)
    straight = gain(seed).measure(steps)
    assert gain(seed).measure([steps[i] for i in order]) == [straight[i] for i in order]


def test_a_part_of_the_batch_measures_the_same_from_the_same_pool() -> None:
    steps = batch([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)])
    whole = gain().measure(steps)
    assert [gain().measure([step], pool=steps)[0] for step in steps] == whole


def test_comes_from_the_batch_first() -> None:
    requests, _ = measured(batch([(i, i) for i in range(5)]))
    for request in requests:
        texts = [evidence.text for evidence in request.evidences]
        assert not any("Elsewhere" in text for text in texts)
        assert len(set(texts)) == 4


def test_depends_on_the_seed() -> None:
    steps = batch([(i, i) for i in range(5)])
    drawn = {tuple(g.baseline_evidences for g in gain(seed).measure(steps)) for seed in range(6)}
    assert len(drawn) > 1
    assert gain(3).measure(steps) == gain(3).measure(steps)


def test_depends_on_the_question() -> None:
    gains = gain(random_source="corpus").measure(batch([(i, 0) for i in range(5)]))
    assert len({g.baseline_evidences for g in gains}) > 1


def test_depends_on_the_step() -> None:
    question = Question("q", "Who?", ("x",), "x")
    steps = batch([(i, i) for i in range(5)])
    trajectory = one_search(0, POOL[5]).trajectory
    turns = trajectory.turns * 6
    trajectory.question, trajectory.turns = question, turns
    own = search_steps([trajectory])
    drawn = {g.baseline_evidences for g in gain().measure(own, pool=[*steps, *own])}
    assert len(drawn) > 1


def test_siblings_at_the_same_step_are_compared_with_the_same() -> None:
    siblings = batch([(0, 4), (0, 5), (0, 4)])
    gains = gain().measure([*siblings, *batch([(1, 0), (2, 1), (3, 2), (4, 3)])])
    assert len({g.baseline_evidences for g in gains[:3]}) == 1
    alone = gain().measure(siblings)  # nobody else's searches: from the corpus
    assert len({g.baseline_evidences for g in alone}) == 1


def test_falls_back_to_the_corpus_with_as_many_passages() -> None:
    (request,), _ = measured([one_search(0, *POOL[:3])])
    assert len(request.evidences) == 4
    for evidence in request.evidences[1:]:
        assert evidence.text.count("Title: Elsewhere") == 3
    assert len({evidence.text for evidence in request.evidences}) > 2


def test_fills_up_from_the_corpus_where_the_batch_is_small() -> None:
    requests, _ = measured(batch([(0, 0), (1, 1)]), num_random=3)
    for request, other in zip(requests, ("T1", "T0"), strict=True):
        texts = [evidence.text for evidence in request.evidences[1:]]
        assert [f"Title: {other})" in text for text in texts].count(True) == 1
        assert ["Elsewhere" in text for text in texts].count(True) == 2


def test_source_corpus_takes_nothing_from_the_batch() -> None:
    requests, _ = measured(batch([(i, i) for i in range(5)]), random_source="corpus")
    for request in requests:
        assert all("Elsewhere" in evidence.text for evidence in request.evidences[1:])


def test_from_the_corpus_never_the_same_passages() -> None:
    few = DictionaryRetriever({"x": POOL[:4]})
    steps = [one_search(i, POOL[0]) for i in range(10)]
    requests, _ = measured(steps, random_source="corpus", retriever=few)
    for request in requests:
        assert request.evidences[0].text not in [evidence.text for evidence in request.evidences[1:]]


def test_a_corpus_smaller_than_a_search_is_shown_whole() -> None:
    tiny = DictionaryRetriever({"x": [Passage("c", "Elsewhere", "alone")]})
    (request,), _ = measured([one_search(0, *POOL[:3])], retriever=tiny)
    assert [evidence.text.count("Elsewhere") for evidence in request.evidences] == [0, 1, 1, 1]


def test_without_a_retriever_a_small_batch_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"1 random evidences for question 'n0', 3 needed.*retriever"):
        measured(batch([(0, 0), (1, 1)]), retriever=None)
    requests, _ = measured(batch([(i, i) for i in range(4)]), retriever=None)
    assert len(requests) == 4
