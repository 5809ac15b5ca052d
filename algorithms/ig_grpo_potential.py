"""IG-GRPO with potential-based shaping: information gain that cannot change which policy is optimal (ours).

    Phi(s_t)  = alpha p(a* | what the policy has read before turn t)             (--gain log_probability: log p)
    F_t       = gamma Phi(s_{t+1}) - Phi(s_t),   Phi(terminal) = 0               (Ng, Harada, Russell 1999)
    G_{i,t}   = sum_{k >= t} gamma^{k-t} (r_{i,k} + F_{i,k}) = gamma^{T-t} R_i - Phi(s_{i,t})
    A_{i,t}   = G_{i,t} - mean_{j != i} G_{j,0}                                  on every policy token of turn t
              = R_i - mean_{j != i} R_j - (Phi(s_{i,t}) - Phi(s_0))              at gamma = 1, T being the last turn

Each search earns its gain over the context before it, and the last turn pays back the potential that was reached.
IG-GRPO and IGPO do not take it back: a policy that only raises the probability of the answer is better off there. Here
the sum over the turns that follow is a function of the state alone, so the expected gradient is that of RLOO on the
outcome for any potential and any alpha: shaping can reduce the variance of the estimate and nothing else. It does where
Phi resembles the value of a state, the expected outcome from there on: a critic without training. The probability of
the golden answer estimates just that for an answer given now, in the units of exact match, hence the defaults.

Nothing is divided by a standard deviation and no gain is stabilised: either would make the sum depend on the actions.
See "Potential-based shaping" in docs/algorithms.md for the variance that was measured.

    python algorithms/ig_grpo_potential.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import discounted_sums, rloo_advantages
from algorithms.common.training.potentials import GainForm, check_potentials, shaping_rewards, turn_potentials
from igsearch_env.errors import check_range
from igsearch_env.information_gain import InformationGainConfig


@dataclass(frozen=True)
class IGGRPOPotentialConfig(TrainConfig):
    """Options of IG-GRPO with potential-based shaping."""

    alpha: float = 1.0
    """Weight of the potential; at 0 this is RLOO."""
    gain: GainForm = "probability"
    """Potential: the probability of the golden answer (e^s), or its mean token log-prob s, in nats."""
    gamma: float = 1.0
    """Discount factor per turn."""
    information_gain: InformationGainConfig = field(
        default_factory=lambda: InformationGainConfig(baseline="previous", head_weight=1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha, 0)
        check_range("gamma", self.gamma, 0, 1)
        check_potentials(self.information_gain, self.env, "IG-GRPO with potential-based shaping")
        check_siblings(self.rollout.group_size, "ig_grpo_potential", "train with algorithms/ppo.py")


class IGGRPOPotential(Algorithm):
    """RLOO on outcomes shaped by a potential: the probability of the golden answer before each turn."""

    name = "ig_grpo_potential"
    needs_information_gain = True

    def __init__(self, config: IGGRPOPotentialConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        buffer.check_gains()
        config, counts = self.config, buffer.turn_counts
        potentials = config.alpha * turn_potentials(buffer, config.gain)
        rewards = shaping_rewards(potentials, counts, config.gamma)
        last = np.cumsum(counts) - 1
        rewards[last] += buffer.outcomes
        returns = discounted_sums(rewards, counts, config.gamma)
        of_episodes = returns[last - counts + 1]
        siblings = of_episodes - rloo_advantages(of_episodes, buffer.group_index)  # mean over them; 0 without any
        per_turn = np.where(np.repeat(buffer.lost_siblings, counts), 0.0, returns - np.repeat(siblings, counts))
        return buffer.broadcast_turns(per_turn)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(IGGRPOPotential, IGGRPOPotentialConfig, __doc__)
