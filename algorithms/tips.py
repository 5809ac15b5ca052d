"""TIPS: turn-level information-potential shaping of the reward (arXiv 2603.22293, ICLR 2026), with PPO.

    phi_i = log sum_a exp(mean token log-prob of golden answer a, given what was read up to the i-th search)
    r     = c (phi_i - phi_{i-1}) at the end of search i;  outcome - c (phi_last - phi_0) on the last token;  else 0
    c     = 0.11 / mean |phi_i - phi_{i-1}| over the searches of the batch whose potential changed (--scale: fixed)
    A     = as in PPO, from these rewards and a critic                                   --estimator critic
    A_t   = z(mean reward per token of segment k) + z(outcome), t in segment k           --estimator group ("SGRPO")

phi_0 is that of the prompt. It is subtracted from all potentials, so the rewards of an episode sum to its outcome. The
optimal policy stays the same, and with an exact critic so do PPO's advantages: the potential replaces what the critic
has not learnt yet. Segment k ends with the k-th search; the tokens after the last search have z(outcome) alone. z is
over the siblings that have a segment k (population deviation, eps 1e-6; 0 where it is below 1e-6, or for one alone).
Normalised segment by segment, nothing telescopes: the group form is no potential-based shaping, and is biased in when
to stop ("Stopping bias" in docs/algorithms.md).

Differences. In the code phi_0 is not subtracted and episodes sum to outcome - c phi_0, but those without a search to
their outcome: it pays -c phi_0, which is positive for an unlikely answer, for searching at all. phi scores the answers'
own tokens, in the code also the tags around them. The teacher is the policy of this step (paper: a frozen or
periodically refreshed copy). The released code does not connect its group form with these rewards; the connection here
is ours, and the outcome in it is not shaped.

    python algorithms/tips.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from algorithms.common.config import check_siblings, check_unused
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import Float64s
from algorithms.common.training.potentials import check_potentials, shaping_rewards, turn_potentials
from algorithms.common.training.segments import segment_advantages
from algorithms.ppo import PPO, PPOConfig, add_to_turns
from igsearch_env.errors import check_range
from igsearch_env.information_gain import InformationGainConfig


@dataclass(frozen=True)
class TIPSConfig(PPOConfig):
    """Options of TIPS; the defaults are those of the authors' code."""

    estimator: Literal["critic", "group"] = "critic"
    """Estimate advantages with PPO's critic (paper), or compare segments within the group (SGRPO)."""
    scale: float | None = None
    """c: weight of the potential, per nat (0.02 in the authors' scripts); None: by `target_scale`."""
    target_scale: float = 0.11
    """Mean size of the rewards of searches, which c is computed from in each batch."""
    information_gain: InformationGainConfig = field(
        default_factory=lambda: InformationGainConfig(baseline="previous", head_weight=1.0, golden_answers="all")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("scale", 0.0 if self.scale is None else self.scale, 0)
        check_range("target_scale", self.target_scale, 0)
        check_potentials(self.information_gain, self.env, "TIPS")
        if self.estimator == "group":
            check_siblings(self.rollout.group_size, "estimator='group'", "set --estimator critic")
            of_critic = ("gamma", "gae_lambda", "kl_in_reward", "critic")
            check_unused(self, "estimator='group'", *of_critic, instead="set --estimator critic")
        if self.scale is not None:
            check_unused(self, f"scale={self.scale}", "target_scale", instead="leave scale out")


class TIPS(PPO):
    """TIPS: PPO whose searches earn what they add to the log-probability of the golden answers."""

    name = "tips"
    needs_information_gain = True

    def __init__(self, config: TIPSConfig) -> None:
        super().__init__(config)
        self.options = config
        if config.estimator == "group":
            self.critic = None

    def rewards(self, buffer: RolloutBuffer) -> Float64s:
        """PPO's rewards, and c F of each turn on its last token."""
        rewards = super().rewards(buffer)
        add_to_turns(rewards, buffer, self._shaping(buffer))
        return rewards

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        if self.options.estimator == "critic":
            return super().advantages(buffer)
        turns = [[turn.is_search for turn in t.turns] for t in buffer.trajectories]
        return buffer.broadcast_turns(
            segment_advantages(self._shaping(buffer), turns, buffer.turn_tokens, buffer.outcomes, buffer.group_index)
        )

    def _shaping(self, buffer: RolloutBuffer) -> Float64s:
        buffer.check_gains()
        shaping = shaping_rewards(turn_potentials(buffer, "log_probability"), buffer.turn_counts)
        if self.options.scale is not None:
            return self.options.scale * shaping
        changes = np.abs(np.delete(shaping, np.cumsum(buffer.turn_counts) - 1))
        changes = changes[changes > 1e-8]
        return shaping * (self.options.target_scale / changes.mean() if changes.size else 0.0)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(TIPS, TIPSConfig, __doc__)
