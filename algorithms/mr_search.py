"""MR-Search: several attempts at each question, with a reflection on the earlier ones between them (arXiv 2603.11327).

    u_{i,n} = r_{i,n} - mean_{j != i} r_{j,n}         attempt n of rollout i against its siblings' n-th     (Eq. 7)
    A_{i,n} = sum_{k >= n} gamma^{k-n} u_{i,k}        on every policy token of attempt n                    (Eq. 8)

An episode has `--env.attempts` attempts (3, as published) with a reflection prompt between them; training statistics
and evaluation use the answer of the last attempt. There is no division by a standard deviation. Attempt n is compared
among the rollouts that reached it, and u = 0 if there is only one; an attempt cut short by the context limit has reward
0. The paper's loss is `--loss.aggregation seq-mean-token-mean` (Eq. 9), its code uses the token mean, which is the
default here; both use a dual clip (`--loss.dual-clip 3`), which is off here. Not implemented: the mask of exploratory
attempts (Eq. 10), which the authors' code does not have either.

The cost of an episode is that of its attempts: compare algorithms at equal numbers of attempts, not of episodes.

    python algorithms/mr_search.py --steps 60 --seed 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.advantages import Float64s as Values
from algorithms.common.training.advantages import discounted_sums, rloo_advantages
from igsearch_env.errors import check_range
from igsearch_env.trajectory import Trajectory


@dataclass(frozen=True)
class MRSearchConfig(TrainConfig):
    """Options of MR-Search."""

    gamma: float = 1.0
    """Discount factor per attempt."""
    env: EnvConfig = field(default_factory=lambda: EnvConfig(attempts=3))
    """The environment, with 3 attempts by default; set `attempts` yourself if you pass an `EnvConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0, 1)
        check_siblings(self.rollout.group_size, "MR-Search", "train with algorithms/reinforce_plus_plus.py")


class MRSearch(Algorithm):
    """MR-Search: compares attempt n of each trajectory with the mean of its siblings' n-th attempts."""

    name = "mr_search"

    def __init__(self, config: MRSearchConfig) -> None:
        self.gamma = config.gamma

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        attempts = [attempt_ends(trajectory) for trajectory in buffer.trajectories]
        rewards = [[reward for _, reward in ends] for ends in attempts]
        per_attempt = np.concatenate(attempt_advantages(rewards, buffer.group_index, self.gamma))
        first_turns = (np.cumsum(buffer.turn_counts) - buffer.turn_counts).tolist()
        ends = [first + end for first, row in zip(first_turns, attempts, strict=True) for end, _ in row]
        turns = np.diff(ends, prepend=0)  # per attempt; attempts are contiguous
        return buffer.broadcast_turns(np.repeat(per_attempt, turns))


def attempt_ends(trajectory: Trajectory) -> list[tuple[int, float]]:
    """For each attempt, the index of the turn after its last one, and its reward; 0 for an unfinished last attempt.

    A trajectory without recorded attempts counts as one attempt.
    """
    turns = len(trajectory.turns)
    ends = [(attempt.end, attempt.outcome) for attempt in trajectory.attempts]
    if not ends:
        return [(turns, trajectory.outcome)]
    return ends if ends[-1][0] == turns else [*ends, (turns, 0.0)]


def attempt_advantages(rewards: Sequence[Sequence[float]], groups_N: ArrayLike, gamma: float) -> list[Values]:
    """A_{i,n} of N trajectories, from the rewards of their attempts, whose numbers may differ."""
    lengths = np.array([len(row) for row in rewards])
    ends = np.cumsum(lengths)
    numbers = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    keys = np.repeat(groups_N, lengths) * lengths.max() + numbers  # one key per group and n
    differences = rloo_advantages([reward for row in rewards for reward in row], keys)
    differences[np.bincount(keys)[keys] == 1] = 0.0
    return np.split(discounted_sums(differences, lengths, gamma), ends[:-1])


if __name__ == "__main__":
    from algorithms.common.command import main

    main(MRSearch, MRSearchConfig, __doc__)
