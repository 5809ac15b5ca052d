"""Sources of gains beside the measured one: what a control gives to whom, and where it is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from helpers import PASSAGES, LengthScorer, make_env, played, search

from igsearch_env import ConfigurationError, Gain, InformationGain, InformationGainConfig, Trajectory, measure_gains
from igsearch_env.evidence import search_steps
from igsearch_env.gain_sources import FLOOR, OF_BATCHES
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from retrievers import BM25Retriever, Passage

BRIN, TOLONA, RIVER, SOREL, *_ = PASSAGES
BRIDGE = Question("b", "In which city?", ("Veria",), "bridge", {"supporting_titles": ["Alan Brin", "The Tolona"]})
BARE = Question("n", "Who?", ("Mira Sorel",), "natural")


def episode(question: Question, *found: Sequence[Passage]) -> Trajectory:
    """An episode whose searches found these passages."""
    return played(question, *((search(f"query {number}"), passages) for number, passages in enumerate(found)))


def batch(source: str, trajectories: Sequence[Trajectory], seed: int = 0, baseline: str = "empty") -> list[Gain]:
    """The gains of all searches, in order."""
    config = InformationGainConfig.of({"source": source, "baseline": baseline})
    gain = InformationGain(config, LengthScorer() if config.needs_scorer else None, make_protocol(), None, seed)
    return gain.of_batch(search_steps(trajectories))


@pytest.mark.parametrize("baseline", ["empty", "previous"])
def test_shuffled_gains_are_the_measured_ones_in_another_order(baseline: str) -> None:
    texts = [Passage(str(n), "Page", "word " * (n + 1)) for n in range(24)]
    trajectories = [episode(BARE, texts[n : n + 1], texts[n + 1 : n + 2]) for n in range(0, 24, 2)]
    measured = batch("policy", trajectories, baseline=baseline)
    shuffled = batch("shuffled", trajectories, baseline=baseline)
    assert shuffled != measured
    assert sorted(map(str, shuffled)) == sorted(map(str, measured))  # whole: value, both scores and evidences
    assert shuffled == batch("shuffled", trajectories, baseline=baseline)
    assert shuffled != batch("shuffled", trajectories, seed=1, baseline=baseline)


def test_shuffled_gains_are_shuffled_after_processes_have_gathered_theirs() -> None:
    steps = search_steps([episode(BARE, PASSAGES[n : n + 1]) for n in range(8)])
    config = InformationGainConfig.of({"source": "shuffled", "baseline": "empty"})
    gain = InformationGain(config, LengthScorer(), make_protocol())
    whole = gain.of_batch(steps)

    def gather(mine: list[Gain]) -> list[Gain]:
        return [*mine, *gain.measure(steps[5:], steps)]

    assert gain.of_batch(steps, steps[:5], gather) == whole


def test_random_gains_have_no_mean_and_the_documented_deviation() -> None:
    steps = search_steps([episode(BARE, [BRIN])]) * 20_000
    gains = InformationGain(InformationGainConfig(source="random"), None, make_protocol(), None, 3).of_batch(steps)
    for values, deviation in (
        ([gain.value for gain in gains], math.sqrt(2)),
        ([gain.in_probability for gain in gains], 1 / math.sqrt(6)),
    ):
        assert abs(np.mean(values)) < 0.03
        assert np.std(values) == pytest.approx(deviation, rel=0.02)
    assert all(gain.value == gain.logprob_real - gain.logprob_baseline for gain in gains)
    assert max(gain.logprob_real for gain in gains) <= 0


def test_support_pays_each_supporting_page_once_per_episode() -> None:
    found = [[SOREL], [BRIN, RIVER], [BRIN], [SOREL, TOLONA]]
    trajectories = [episode(BRIDGE, *found), episode(BRIDGE, [TOLONA, BRIN])]
    gains = batch("support", trajectories)
    share = [gain.in_probability / (1 - FLOOR) for gain in gains]
    assert share == pytest.approx([0, 0.5, 0, 0.5, 1])
    half = math.log((1 + FLOOR) / 2)
    assert [gain.value for gain in gains] == pytest.approx([0, half + 2, 0, -half, 2])


def test_support_needs_supporting_titles() -> None:
    with pytest.raises(ConfigurationError, match="data set 'natural' has no supporting_titles"):
        batch("support", [episode(BRIDGE, [BRIN]), episode(BARE, [BRIN])])


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
def test_an_environment_pays_support_without_a_scorer(protocol: str) -> None:
    env = make_env(questions=[BRIDGE], scorer=None, protocol=protocol, information_gain={"source": "support"}, top_k=1)
    env.reset()
    rewards = [env.step(text)[1] for text in (search("Alan Brin"), search("Alan Brin"), "<answer> no </answer>")]
    value = math.log((1 + FLOOR) / 2) + 2
    paid = InformationGainConfig().stabilise(value)
    assert rewards == pytest.approx([paid, 0, 0] if protocol == "search_r1" else [0, paid, 0])
    assert [turn.gain and round(turn.gain.value, 6) for turn in env.trajectory.turns] == [round(value, 6), 0, None]


@pytest.mark.parametrize("source", OF_BATCHES)
def test_an_environment_refuses_sources_of_batches(source: str) -> None:
    with pytest.raises(ConfigurationError, match=f"source='{source}'.*a whole batch"):
        make_env(questions=[BRIDGE], information_gain={"source": source})


def test_an_environment_refuses_questions_without_supporting_titles_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="data set 'natural'"):
        make_env(questions=[BRIDGE, BARE], scorer=None, information_gain={"source": "support"})


def test_gains_of_trajectories_that_were_played() -> None:
    trajectory = episode(BRIDGE, [BRIN], [SOREL])
    measure_gains([trajectory], None, information_gain={"source": "support"})
    assert [turn.gain is not None and turn.gain.value > 0 for turn in trajectory.turns] == [True, False]
    with pytest.raises(ConfigurationError, match="must be an AnswerScorer"):
        measure_gains([trajectory], None, retriever=BM25Retriever(PASSAGES))


def test_unknown_source() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'shuffled'"):
        InformationGainConfig.of({"source": "shufled"})
