"""REINFORCE++: token returns whitened over the whole batch, without groups (arXiv 2501.03262).

    G_{i,t} = r_{i,t} + gamma G_{i,t+1}      over policy tokens; the outcome is the reward of the last one
    A       = (G - mean) / std               over all policy tokens of the batch

Returns carry over observation tokens, which are not time steps (until 2025, verl set the returns before the last
observation to 0: verl#7278). `--group-baseline` selects the variant for several rollouts per question:

    A       = whiten(r_i - mean_group)       over all policy tokens of the batch, so that long episodes weigh more

    python algorithms/reinforce_plus_plus.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import group_statistics, whiten
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class ReinforcePlusPlusConfig(TrainConfig):
    """Options of REINFORCE++."""

    gamma: float = 1.0
    """Discount factor per policy token."""
    group_baseline: bool = False
    """Subtract the mean reward of the group first (REINFORCE++-baseline)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0, 1)
        if self.group_baseline:
            check_siblings(self.rollout.group_size, "group_baseline=True", "set --no-group-baseline")


class ReinforcePlusPlus(Algorithm):
    """REINFORCE++: compares the return of each policy token with the batch's mean, over its standard deviation."""

    name = "reinforce_plus_plus"

    def __init__(self, config: ReinforcePlusPlusConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        rewards = buffer.outcomes.astype(np.float64)
        if self.config.group_baseline:
            rewards = rewards - group_statistics(rewards, buffer.group_index)[0]
        counts, gamma = buffer.policy_tokens, self.config.gamma
        returns = np.repeat(rewards, counts)
        if gamma < 1:
            discounts = gamma ** np.arange(counts.max() - 1, -1, -1)
            for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True):
                returns[end - count : end] *= discounts[len(discounts) - count :]
        return whiten(returns, out=returns).astype(np.float32)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(ReinforcePlusPlus, ReinforcePlusPlusConfig, __doc__)
