"""IGPO: information gain as the reward of each turn (arXiv 2510.14967).

    g_t   = p_t - p_{t-1},  p_t = exp(mean token log-prob of the golden answer after turn t)     searches    (Eq. 5)
    r     = g_t for a search, the outcome for the last turn
    r^    = (r - mean_group) / std_group       "separate": gains and outcomes separately; "joint": together;
                                               --no-scale-by-std: r - mean_group
    A_t   = r^_t + gamma A_{t+1}               over turns; on every policy token of turn t                  (Eq. 8, 9)

p is the policy's own probability, without gradient: IG-GRPO's scorer with the baseline `previous` and equal weights for
all answer tokens. Rewards are normalised first and accumulated afterwards: the first public code did the opposite, and
its authors fixed it (issue #5 there). Standard deviations are those of the population. As in the authors' code, a turn
without a search has no reward of its own, but gets those that follow; here this includes a search without passages.
Not adopted: their outcome (set-based F1, -2 for a bad format; here `--env.outcome-reward`), the sum over the tokens of
a sequence in the loss (`--loss.aggregation seq-mean-token-sum`) and the KL term (`--loss.kl-coef 0.001`).

    python algorithms/igpo.py --steps 60 --seed 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import discounted_sums, group_statistics
from igsearch_env.errors import ConfigurationError, check_range
from igsearch_env.information_gain import InformationGainConfig


@dataclass(frozen=True)
class IGPOConfig(TrainConfig):
    """Options of IGPO; the defaults are those of the paper's code."""

    gamma: float = 1.0
    """Discount factor per turn."""
    gain: Literal["probability", "log_probability"] = "probability"
    """Information gain as a difference of probabilities (paper), or of mean log-probs, in nats."""
    normalisation: Literal["joint", "separate"] = "joint"
    """Normalise gains and outcomes together (code) or separately (the authors' training script)."""
    scale_by_std: bool = True
    """Divide by the standard deviation as well (`norm_adv_by_std_in_grpo` in the authors' code)."""
    information_gain: InformationGainConfig = field(
        default_factory=lambda: InformationGainConfig(baseline="previous", head_weight=1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0, 1)
        if self.normalisation == "separate":
            check_siblings(self.rollout.group_size, "normalisation='separate'", "set --normalisation joint")
        if self.information_gain.baseline != "previous":
            raise ConfigurationError(
                f"information_gain.baseline={self.information_gain.baseline!r}: IGPO compares with the previous turn; "
                "set 'previous', or train with algorithms/ig_grpo.py"
            )


class IGPO(Algorithm):
    """IGPO: rewards each search by its information gain and the last turn by the outcome, relative to the group."""

    name = "igpo"
    needs_information_gain = True

    def __init__(self, config: IGPOConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        config = self.config
        buffer.check_gains()
        rewards = []
        for trajectory in buffer.trajectories:
            gains = [
                None if t.gain is None else turn_gain(t.gain.logprob_baseline, t.gain.logprob_real, config.gain)
                for t in trajectory.turns[:-1]
            ]
            rewards.append([*gains, float(trajectory.outcome)])
        per_turn = turn_advantages(
            rewards, buffer.group_index, config.normalisation, config.gamma, scale_by_std=config.scale_by_std
        )
        return buffer.broadcast_turns(np.concatenate(per_turn))


def turn_gain(before: float, after: float, form: str) -> float:
    """Information gain of a turn, from the golden answer's mean token log-probs before and after it."""
    return math.exp(after) - math.exp(before) if form == "probability" else after - before


def turn_advantages(
    rewards: Sequence[Sequence[float | None]],
    groups: NDArray[np.int64],
    normalisation: str,
    gamma: float,
    *,
    scale_by_std: bool = True,
) -> list[NDArray[np.float64]]:
    """Advantage of each turn, by trajectory.

    Args:
        rewards: for each trajectory, the rewards of its turns, the outcome last; None for a turn without a reward.
        groups: group number of each trajectory.
        normalisation: joint or separate.
        gamma: discount factor per turn.
        scale_by_std: divide by the standard deviation of the group.
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


if __name__ == "__main__":
    from algorithms.common.command import main

    main(IGPO, IGPOConfig, __doc__)
