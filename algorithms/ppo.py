"""PPO: proximal policy optimisation with a critic (arXiv 1707.06347), as used by Search-R1 for search agents.

    r_t     = outcome on the last policy token - beta (logp_old,t - logp_ref,t)    KL in the reward, k1
    delta_t = r_t + gamma V_{t+1} - V_t                                            (1506.02438, Eq. 12)
    A_t     = delta_t + gamma lambda A_{t+1}, then whitened over the batch         (1506.02438, Eq. 16)
    R_t     = A_t + V_t, before whitening: the critic's targets, with a clipped squared error

t counts policy tokens: tokens that the policy reads are not time steps and are not discounted (verl's hole-aware form;
Search-R1's code steps through observation tokens, which is equivalent at gamma = lambda = 1, the defaults there and
here). The policy loss is the clipped loss of `--loss`. The critic is a copy of the policy with a value head initialised
to 0. Search-R1's beta is 0.001; here it is 0, since no algorithm here has a KL penalty by default.

    python algorithms/ppo.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from algorithms.common.training.advantages import Float64s as Values
from algorithms.common.training.advantages import gae, whiten
from algorithms.common.training.config import CriticConfig
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class PPOConfig(TrainConfig):
    """Options of PPO."""

    gamma: float = 1.0
    """Discount factor per policy token."""
    gae_lambda: float = 1.0
    """lambda of generalised advantage estimation (GAE)."""
    kl_in_reward: float = 0.0
    """beta: KL penalty in the reward, per nat of log-prob above the starting policy's (Search-R1: 0.001)."""
    critic: CriticConfig = field(default_factory=CriticConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0, 1)
        check_range("gae_lambda", self.gae_lambda, 0, 1)
        check_range("kl_in_reward", self.kl_in_reward, 0)


class PPO(Algorithm):
    """PPO: compares the return of each policy token with the value that the critic predicts for it (GAE)."""

    name = "ppo"

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.critic = config.critic
        self.needs_reference = config.kl_in_reward > 0

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        advantages = self._gae(buffer)
        return whiten(advantages, out=advantages).astype(np.float32)

    def value_targets(self, buffer: RolloutBuffer) -> Float32s:
        """R_t of each policy token, the targets of the critic."""
        targets: Float32s = (self._gae(buffer) + critic_values(buffer)).astype(np.float32)
        return targets

    def rewards(self, buffer: RolloutBuffer) -> Values:
        """r_t of each policy token."""
        return token_rewards(buffer, self.config.kl_in_reward)

    def _gae(self, buffer: RolloutBuffer) -> Values:
        values, lengths, config = critic_values(buffer), buffer.policy_tokens, self.config
        return gae(self.rewards(buffer), values, lengths, gamma=config.gamma, lam=config.gae_lambda)


def critic_values(buffer: RolloutBuffer) -> Float32s:
    """`buffer.values`. Raises `RolloutBufferError` if the buffer has none."""
    if buffer.values is None:
        raise RolloutBufferError("the buffer has no values: PPO needs those of a critic; set buffer.values first")
    return buffer.values


def add_to_turns(rewards: Values, buffer: RolloutBuffer, per_turn: Values) -> None:
    """Add a reward for each turn to its last policy token, in place."""
    np.add.at(rewards, np.cumsum(buffer.turn_tokens) - 1, per_turn)


def token_rewards(buffer: RolloutBuffer, beta: float) -> Values:
    """r_t of each policy token: the outcome on the last one of each trajectory, minus the KL penalty."""
    rewards = np.zeros(int(buffer.policy_tokens.sum()))
    rewards[np.cumsum(buffer.policy_tokens) - 1] = buffer.outcomes
    if beta:
        if buffer.reference_logprobs is None:
            raise RolloutBufferError("the buffer has no reference_logprobs: set them first, or set kl_in_reward to 0")
        rewards -= beta * (buffer.logprobs - buffer.reference_logprobs)
    return rewards


if __name__ == "__main__":
    from algorithms.common.command import main

    main(PPO, PPOConfig, __doc__)
