"""`measure_gains`: gains of trajectories that were played before, without a model."""

from __future__ import annotations

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
@pytest.mark.parametrize("baseline", ["random", "previous", "empty"])
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
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    trajectory = played(QUESTIONS[0], (search("x"), PASSAGES[:2]))
    with pytest.raises(ConfigurationError, match=said):
        measure_gains(arguments.pop("trajectories", [trajectory]), LengthScorer(), **arguments)


def test_a_failure_keeps_the_gains_that_were_there() -> None:
    class NoSample(FailingRetriever):
        def sample(self, n: int, rng: Any) -> Any:
            raise RetrievalError("down")

    trajectory = played(QUESTIONS[0], (search("x"), PASSAGES[:2]))
    trajectory.turns[0].gain = Gain(7.0, 0.0, -7.0)
    with pytest.raises(RetrievalError):
        measure_gains([trajectory], LengthScorer(), retriever=NoSample(small_retriever()))
    assert trajectory.turns[0].gain == Gain(7.0, 0.0, -7.0)
