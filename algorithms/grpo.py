"""GRPO: group-relative policy optimisation (arXiv 2402.03300), as used by Search-R1 for search agents.

    A_i = (r_i - mean_group) / (std_group + eps)                                   on every policy token of i

`std` is Bessel-corrected and eps is 1e-6, as in verl and Search-R1; a group of one keeps its reward, unless it had more
members, whose retrieval failed: then A is 0. Variants:

    Dr. GRPO (2503.20783)   --no-scale-by-std --loss.aggregation seq-mean-token-sum-norm --loss.horizon H
    DAPO (2503.14476)       --loss.clip-ratio-high 0.28 --dynamic-sampling --overlong-buffer L
                            (and token-mean aggregation, which is the default)
    GSPO (2507.18071)       algorithms/gspo.py

    python algorithms/grpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings, check_unused
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import Float64s, grpo_advantages, overlong_penalty
from algorithms.common.training.turn_rewards import invalid_turns, repeating_turns
from igsearch_env.errors import check_range
from igsearch_env.trajectory import Group


@dataclass(frozen=True)
class GRPOConfig(TrainConfig):
    """Options of GRPO."""

    scale_by_std: bool = True
    """Divide by the group's standard deviation; disabled: Dr. GRPO."""
    dynamic_sampling: bool = False
    """Replace groups whose outcomes are all equal by newly sampled ones (DAPO)."""
    overlong_buffer: int = 0
    """DAPO: the length penalty starts this many tokens below the maximum response length; 0: no penalty."""
    overlong_factor: float = 1.0
    """DAPO: penalty of a response of maximum length."""
    invalid_penalty: float = 0.0
    """Subtracted from the advantages of a turn that neither searches nor answers; 0: no penalty (ours)."""
    repeat_penalty: float = 0.0
    """Subtracted from the advantages of a turn that searches for an earlier query of its episode (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("overlong_buffer", self.overlong_buffer, 0, self.max_response)
        check_range("invalid_penalty", self.invalid_penalty, 0)
        check_range("repeat_penalty", self.repeat_penalty, 0)
        if not self.overlong_buffer:
            check_unused(self, "overlong_buffer=0", "overlong_factor", instead="set --overlong-buffer")
        if self.dynamic_sampling:
            check_siblings(self.rollout.group_size, "dynamic_sampling=True", "set --no-dynamic-sampling")

    @property
    def max_response(self) -> int:
        """Maximum number of policy tokens in an episode."""
        return self.rollout.max_new_tokens * (self.env.max_searches + 1) * self.env.attempts


class GRPO(Algorithm):
    """GRPO: compares the reward of each trajectory with its group's mean, over the group's standard deviation."""

    name = "grpo"

    def __init__(self, config: GRPOConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token; without a penalty exactly 0 in a group whose rewards are all equal."""
        advantages = grpo_advantages(self.rewards(buffer), buffer.group_index, scale_by_std=self.config.scale_by_std)
        per_token = buffer.broadcast(np.where(buffer.lost_siblings, 0.0, advantages))
        if self.config.invalid_penalty:
            per_token -= buffer.broadcast_turns(self.config.invalid_penalty * invalid_turns(buffer))
        if self.config.repeat_penalty:
            per_token -= buffer.broadcast_turns(self.config.repeat_penalty * repeating_turns(buffer))
        return per_token

    def rewards(self, buffer: RolloutBuffer) -> Float64s:
        """Reward of each trajectory: its outcome, less the penalty for its length."""
        config = self.config
        rewards = buffer.outcomes.astype(np.float64)
        if config.overlong_buffer:
            rewards += overlong_penalty(
                buffer.policy_tokens,
                max_length=config.max_response,
                buffer_length=config.overlong_buffer,
                factor=config.overlong_factor,
            )
        return rewards

    def keep(self, group: Group) -> bool:
        """With dynamic sampling, keep only groups whose outcomes differ."""
        return not self.config.dynamic_sampling or len({t.outcome for t in group.trajectories}) > 1


if __name__ == "__main__":
    from algorithms.common.command import main

    main(GRPO, GRPOConfig, __doc__)
