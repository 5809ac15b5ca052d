"""`measure_gains`: gains of trajectories that were played before, without a model."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import (
    PASSAGES,
    QUESTIONS,
    FailingRetriever,
    LengthScorer,
    RecordingScorer,
    make_env,
    played,
    search,
    small_retriever,
)

from igsearch_env import (
    Answer,
    ConfigurationError,
    Gain,
    InformationGainConfig,
    ScoringError,
    Search,
    Trajectory,
    UnigramScorer,
    measure_gains,
)
from retrievers import RetrievalError

CORPUS = {"random_source": "corpus"}


def episodes(**options: Any) -> list[Trajectory]:
    """An episode of each question, as the environment records it."""
    found = []
    for question in QUESTIONS:
        env = make_env(**options)
        env.reset(options={"question": question})
        for action in (Search(question.text), Search("zzz"), "hm", Search("Karith"), Answer("x")):
            env.step(action)
        found.append(env.trajectory)
    return found


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
@pytest.mark.parametrize("baseline", ["random", "previous", "empty", "query"])
def test_measures_what_the_environment_measured(protocol: str, baseline: str) -> None:
    config = {**CORPUS, "baseline": baseline}
    paid = episodes(protocol=protocol, information_gain=config, seed=3)
    unpaid = episodes(protocol=protocol, scorer=None)
    assert not any(turn.gain for trajectory in unpaid for turn in trajectory.turns)
    retriever = small_retriever()
    measure_gains(
        unpaid, UnigramScorer(retriever), retriever=retriever, protocol=protocol, information_gain=config, seed=3
    )
    for one, other in zip(paid, unpaid, strict=True):
        assert [turn.gain for turn in one.turns] == [turn.gain for turn in other.turns]
        assert [turn.gain is not None for turn in other.turns] == [True, False, False, True, False]


def test_one_call_and_evidence_of_other_questions() -> None:
    scorer = RecordingScorer()
    trajectories = [played(q, (search(q.text), PASSAGES[2 * i : 2 * i + 2])) for i, q in enumerate(QUESTIONS)]
    measure_gains(trajectories, scorer, information_gain=InformationGainConfig(num_random=2))
    assert len(scorer.requests) == 4
    assert [t.turns[0].gain.value for t in trajectories if t.turns[0].gain] == [1.5] * 4


def test_earlier_gains_are_replaced() -> None:
    trajectory = played(QUESTIONS[0], (search("x"), PASSAGES[:2]), (search("zzz"), []), ("hm", []))
    for turn in trajectory.turns:
        turn.gain = Gain(7.0, 0.0, -7.0)
    measure_gains([trajectory], LengthScorer(), information_gain={"baseline": "previous"})
    gains = [turn.gain for turn in trajectory.turns]
    assert gains[0] is not None
    assert gains[0].value != 7
    assert gains[1:] == [None, None]
    measure_gains([], RecordingScorer())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"information_gain": {"dead_zon": 1}}, "'dead_zon'.*did you mean 'dead_zone'"),
        ({"protocol": "search-r1"}, "did you mean 'search_r1'"),
        ({}, "0 random evidences for question 'q0', 3 needed: pass a retriever"),
        ({"trajectories": ["x"]}, "trajectories has 'x', a str: pass Trajectory objects"),
        ({"trajectories": None}, "trajectories=None, a NoneType: must be a list of Trajectory"),
        ({"trajectories": played(QUESTIONS[0])}, "a Trajectory: must be a list of .*put a single one into a list"),
        ({"trajectories": 7}, "trajectories=7, a int"),
        ({"scorer": "unigram"}, "scorer='unigram': must be an AnswerScorer.*UnigramScorer"),
        ({"scorer": None}, "scorer=None: must be an AnswerScorer"),
        ({"scorer": LengthScorer}, "scorer=.*must be an AnswerScorer"),
        ({"retriever": "bm25"}, "retriever='bm25': must be a Retriever or None"),
        ({"information_gain": "random"}, "information_gain='random': must be an InformationGainConfig or a dictionary"),
        ({"information_gain": 0}, "information_gain=0: must be"),
        ({"information_gain": {"num_random": "3"}}, "num_random='3': must be at least 1"),
        ({"information_gain": {"num_random": 2.5}}, "num_random=2.5: must be a whole number"),
        ({"information_gain": {"dead_zone": None}}, "dead_zone=None: must be at least 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    trajectory = played(QUESTIONS[0], (search("x"), PASSAGES[:2]))
    with pytest.raises(ConfigurationError, match=said):
        measure_gains(**({"trajectories": [trajectory], "scorer": LengthScorer()} | arguments))


def test_a_failure_keeps_the_gains_that_were_there() -> None:
    class NoSample(FailingRetriever):
        def sample(self, n: int, rng: Any) -> Any:
            raise RetrievalError("down")

    trajectory = played(QUESTIONS[0], (search("x"), PASSAGES[:2]))
    trajectory.turns[0].gain = Gain(7.0, 0.0, -7.0)
    with pytest.raises(RetrievalError):
        measure_gains([trajectory], LengthScorer(), retriever=NoSample(small_retriever()))
    assert trajectory.turns[0].gain == Gain(7.0, 0.0, -7.0)


class Returns(LengthScorer):
    """Changes what a scorer returns."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def score(self, requests: Any) -> Any:
        return self.change(super().score(requests))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda scores: [row[:1] for row in scores], "for request 0, of 4 evidences and the answer"),
        (lambda scores: [[] for _ in scores], r"returned \[\] for request 0"),
        (lambda scores: scores[1:], "returned 3 lists for 4 requests"),
        (lambda scores: None, "returned None: score"),
        (lambda scores: [None for _ in scores], r"returned \[None, None"),
        (lambda scores: [["x"] * len(row) for row in scores], "one finite number for each"),
        (lambda scores: [[math.nan, *row[1:]] for row in scores], "returned .nan.* for request 0"),
        (lambda scores: [[*row[:-1], -math.inf] for row in scores], "-inf.* for request 0"),
    ],
    ids=["few", "empty", "lists", "None", "no lists", "text", "NaN", "infinite"],
)
def test_scores_that_are_none(change: Any, said: str) -> None:
    trajectories = [played(q, (search(q.text), PASSAGES[2 * i : 2 * i + 2])) for i, q in enumerate(QUESTIONS)]
    trajectories[0].turns[0].gain = before = Gain(7.0, 0.0, -7.0)
    with pytest.raises(ScoringError, match=said):
        measure_gains(trajectories, Returns(change))
    assert trajectories[0].turns[0].gain is before


def test_any_iterable_of_trajectories() -> None:
    trajectories = [played(q, (search(q.text), PASSAGES[2 * i : 2 * i + 2])) for i, q in enumerate(QUESTIONS)]
    measure_gains((trajectory for trajectory in trajectories), RecordingScorer())
    assert all(trajectory.turns[0].gain is not None for trajectory in trajectories)
