"""Rewards of turns: the returns of IGPO (arXiv 2510.14967), normalised first, and its curriculum; turns to punish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from algorithms.common.rollout.buffer import Flags, RolloutBuffer, RolloutBufferError
from algorithms.common.training.advantages import Float64s, discounted_sums, group_statistics
from igsearch_env.protocols import Invalid


def normalised_returns(
    rewards: Sequence[Sequence[float | None]],
    groups: NDArray[np.int64],
    normalisation: str,
    gamma: float,
    *,
    scale_by_std: bool = True,
) -> list[Float64s]:
    """Advantage of each turn, by trajectory: the discounted sum of its normalised reward and those that follow.

    Args:
        rewards: for each trajectory, the rewards of its turns, the outcome last; None for a turn without a reward.
        groups: group number of each trajectory.
        normalisation: "joint", or "separate": the last turns apart from the others.
        gamma: discount factor per turn.
        scale_by_std: divide by the standard deviation of the group (of the population) as well.
    """
    lengths = [len(turns) for turns in rewards]
    ends = np.cumsum(lengths)
    keys = 2 * np.repeat(groups, lengths)
    if normalisation == "separate":
        keys[ends - 1] += 1
    values = [reward for turns in rewards for reward in turns]
    there = np.array([value is not None for value in values])
    earned = np.array(values, dtype=np.float64)[there]
    means, deviations, _ = group_statistics(earned, keys[there], ddof=0)
    scaled = np.zeros(len(values))
    scaled[there] = earned - means
    if scale_by_std:
        scaled[there] /= np.sqrt(deviations**2 + 1e-8) + 1e-6
    return np.split(discounted_sums(scaled, lengths, gamma), ends[:-1])


def curriculum_weights(step: int | None, steps: int) -> tuple[float, float]:
    """Weights of outcomes and of gains in training step `step` (1, 2, ...), over `steps` steps; 0 steps: 1 and 1.

    Raises `RolloutBufferError` if the step is unknown.
    """
    if not steps:
        return 1.0, 1.0
    if step is None:
        raise RolloutBufferError("the buffer has no metadata['step']: set it, or set curriculum_steps to 0")
    progress = min(step / steps, 1.0)
    return 0.5 + 0.5 * progress, 1.0 - 0.5 * progress


def invalid_turns(buffer: RolloutBuffer) -> Flags:
    """Whether each turn neither searches nor answers, trajectory by trajectory."""
    return np.array([isinstance(turn.action, Invalid) for t in buffer.trajectories for turn in t.turns], dtype=bool)


def repeating_turns(buffer: RolloutBuffer) -> Flags:
    """Whether each turn searches for an earlier query of its trajectory, ignoring case and white space."""
    repeats: list[bool] = []
    for trajectory in buffer.trajectories:
        asked: set[str] = set()
        for turn in trajectory.turns:
            query = None if turn.query is None else " ".join(turn.query.casefold().split())
            repeats.append(query in asked)
            if query is not None:
                asked.add(query)
    return np.array(repeats, dtype=bool)
