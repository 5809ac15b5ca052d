"""StepSearch: where its rewards stand, and what an episode without an answer earns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.ppo import PPO, PPOConfig
from algorithms.step_search import StepSearch, StepSearchConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.gain_sources import progress_gain
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.trajectory import CONTEXT_FULL, Turn
from retrievers import Passage

OLD, NEW, MORE = (Passage(str(n), f"Page {n}", f"Text number {n}.") for n in range(3))


def searched(ids: tuple[int, ...], before: float, after: float, *found: Passage) -> Turn:
    """A search that changes the progress."""
    turn = search_turn(ids, passages=found)
    turn.gain = progress_gain(before, after)
    return turn


def episodes() -> RolloutBuffer:
    """Two searches and the right answer; and an episode that its context ended in a search."""
    answered = trajectory(
        [searched((2, 3), 0.0, 0.25, OLD), searched((4, 5, 6), 0.25, 0.75, OLD, NEW, OLD, MORE), answer_turn((7, 8))],
        1.0,
    )
    cut = trajectory([searched((2, 3, 4), 0.0, 1.0, OLD)], 0.0)
    cut.stop_reason = CONTEXT_FULL
    return buffer_of([[answered, cut]])


def rewards(buffer: RolloutBuffer, **options: Any) -> list[float]:
    return list(StepSearch(StepSearchConfig(**options)).rewards(buffer))


def test_a_search_earns_its_gain_without_its_redundancy_on_the_last_token_of_its_turn() -> None:
    assert rewards(episodes()) == pytest.approx([0, 0.25, 0, 0, 0.5 - 2 / 4, 0, 1, 0, 0, -1])
    assert rewards(episodes(), step_weight=1.6, redundancy=False, no_answer_reward=0.0) == pytest.approx(
        [0, 0.4, 0, 0, 0.8, 0, 1, 0, 0, 0]
    )


def test_without_critic_or_discount_an_advantage_is_the_sum_of_the_rewards_that_follow() -> None:
    buffer = episodes()
    buffer.values = np.zeros(10, dtype=np.float32)
    targets = StepSearch(StepSearchConfig()).value_targets(buffer)
    np.testing.assert_allclose(targets, [1.25, 1.25, 1, 1, 1, 1, 1, -1, -1, -1], atol=1e-6)


def test_without_step_rewards_it_is_ppo() -> None:
    buffer = episodes()
    buffer.values = np.linspace(0, 1, 10, dtype=np.float32)
    ours = StepSearch(StepSearchConfig(step_weight=0.0, no_answer_reward=0.0)).advantages(buffer)
    np.testing.assert_allclose(ours, PPO(PPOConfig()).advantages(buffer), atol=1e-6)


def test_measured_gains_count_as_probabilities() -> None:
    measured = InformationGainConfig(baseline="previous")
    gain = episodes().trajectories[0].turns[0].gain
    assert gain is not None
    assert rewards(episodes(), information_gain=measured)[1] == pytest.approx(gain.in_probability)


def test_a_buffer_without_gains_is_refused() -> None:
    buffer = episodes()
    buffer.values = np.zeros(10, dtype=np.float32)
    for turn in (turn for t in buffer.trajectories for turn in t.turns):
        turn.gain = None
    with pytest.raises(RolloutBufferError, match="none of 3 searches has an information gain"):
        StepSearch(StepSearchConfig()).advantages(buffer)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step_weight": -1.0}, r"step_weight=-1.0: must be at least 0"),
        ({"no_answer_reward": float("nan")}, r"no_answer_reward=nan: must be from -10 to 1"),
        ({"gamma": 1.5}, r"gamma=1.5: must be from 0 to 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        StepSearchConfig(**options)
