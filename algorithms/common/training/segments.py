"""Segments of an episode that end with a search, compared between siblings (SGRPO in the code of TIPS, 2603.22293).

Shapes: N trajectories of S turns in all, one after another; `groups_N` their group numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

from algorithms.common.training.advantages import Float64s, standardised


def segment_numbers(searches: Sequence[Sequence[bool]]) -> NDArray[np.int64]:
    """Number of searches before each turn; -1 after the last search.

    Args:
        searches: for each trajectory, whether each of its turns is a search. One in the last turn ends no segment: the
            policy wrote nothing after it.
    """
    numbers: list[int] = []
    for turns in searches:
        before = list(accumulate(turns[:-1], initial=0))
        numbers += [number if number < before[-1] else -1 for number in before]
    return np.array(numbers, dtype=np.int64)


def segment_advantages(
    rewards_S: ArrayLike,
    searches: Sequence[Sequence[bool]],
    tokens_S: ArrayLike,
    outcomes_N: ArrayLike,
    groups_N: ArrayLike,
) -> Float64s:
    """Advantage of each turn: z of its segment's mean reward per token, plus z of the outcome.

    Segments of equal number are compared within the group. Turns after the last search have z of the outcome alone.

    Args:
        rewards_S: reward of each turn.
        searches: for each trajectory, whether each of its turns is a search.
        tokens_S: number of policy tokens of each turn.
        outcomes_N: outcome of each trajectory.
        groups_N: group number of each trajectory.
    """
    numbers, owners = segment_numbers(searches), np.repeat(np.arange(len(searches)), [len(turns) for turns in searches])
    advantages = standardised(outcomes_N, groups_N, ddof=0)[owners]
    inside = np.flatnonzero(numbers >= 0)
    width = int(numbers.max(initial=0)) + 1
    _, first, segment = np.unique(owners[inside] * width + numbers[inside], return_index=True, return_inverse=True)
    tokens = np.bincount(segment, np.asarray(tokens_S)[inside])
    scores = np.bincount(segment, np.asarray(rewards_S)[inside]) / np.maximum(tokens, 1)
    compared = np.asarray(groups_N)[owners[inside[first]]] * width + numbers[inside[first]]
    advantages[inside] += standardised(scores, compared, ddof=0)[segment]
    return advantages
