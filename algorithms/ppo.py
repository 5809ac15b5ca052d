"""PPO: proximal policy optimisation with a critic (arXiv 1707.06347), as Search-R1 trains search agents with it.

    r_t     = outcome on the last policy token - beta (logp_old,t - logp_ref,t)    KL in the reward, k1
    delta_t = r_t + gamma V_{t+1} - V_t                                            (1506.02438, Eq. 12)
    A_t     = delta_t + gamma lambda A_{t+1}, then whitened over the batch         (1506.02438, Eq. 16)
    R_t     = A_t + V_t, before whitening: what the critic learns, with a clipped square

t counts policy tokens: what the policy reads is no step and costs no discount (verl's hole-aware form; Search-R1's
code runs through observation tokens, which is the same at gamma = lambda = 1, its defaults and these). The policy loss
is the clipped one of `--loss`. The critic is a copy of the policy with a value head that starts at 0. Search-R1's beta
is 0.001; here it is 0, as no algorithm here is pulled to the starting policy by default.

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
from algorithms.common.training.critic import CriticConfig
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class PPOConfig(TrainConfig):
    """Options of PPO."""

    gamma: float = 1.0
    """Discount per policy token."""
    gae_lambda: float = 1.0
    """lambda of generalised advantage estimation."""
    kl_in_reward: float = 0.0
    """beta: cost of a nat of log-prob over the starting policy's (Search-R1: 0.001)."""
    critic: CriticConfig = field(default_factory=CriticConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0, 1)
        check_range("gae_lambda", self.gae_lambda, 0, 1)
        check_range("kl_in_reward", self.kl_in_reward, 0)


class PPO(Algorithm):
    """The estimator."""

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
        """R_t of each policy token."""
        targets: Float32s = (self._gae(buffer) + np.asarray(buffer.values)).astype(np.float32)
        return targets

    def _gae(self, buffer: RolloutBuffer) -> Values:
        if buffer.values is None:
            raise RolloutBufferError("the buffer holds no values: PPO needs a critic's; set buffer.values first")
        rewards = token_rewards(buffer, self.config.kl_in_reward)
        return gae(rewards, buffer.values, buffer.policy_tokens, gamma=self.config.gamma, lam=self.config.gae_lambda)


def token_rewards(buffer: RolloutBuffer, beta: float) -> Values:
    """r_t of each policy token: the outcome on the last one of each trajectory, less the KL cost."""
    rewards = np.zeros(int(buffer.policy_tokens.sum()))
    rewards[np.cumsum(buffer.policy_tokens) - 1] = buffer.outcomes
    if beta:
        if buffer.reference_logprobs is None:
            raise RolloutBufferError("the buffer holds no reference_logprobs: set them first, or kl_in_reward to 0")
        rewards -= beta * (buffer.logprobs - buffer.reference_logprobs)
    return rewards


if __name__ == "__main__":
    from algorithms.common.trainer import main

    main(PPO, PPOConfig, __doc__)
