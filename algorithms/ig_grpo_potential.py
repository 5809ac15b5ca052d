"""IG-GRPO (arXiv 2604.15148) with potential-based shaping: gain that cannot change which policy is optimal (ours).

    Phi(s_t)  = alpha p(a* | what the policy has read before turn t)             (--gain log_probability: log p)
    F_t       = gamma Phi(s_{t+1}) - Phi(s_t),   Phi(terminal) = 0               (Ng, Harada, Russell 1999)
    G_{i,t}   = sum_{k >= t} gamma^{k-t} (r_{i,k} + F_{i,k}) = gamma^{T-t} R_i - Phi(s_{i,t})
    A_{i,t}   = G_{i,t} - mean_{j != i} G_{j,0}                                  on every policy token of turn t
              = R_i - mean_{j != i} R_j - (Phi(s_{i,t}) - Phi(s_0))              at gamma = 1, T being the last turn

Each search earns its gain over the context before it, and the last turn pays back the potential that was reached.
IG-GRPO and IGPO do not take it back: a policy that only raises the probability of the answer is better off there. Here
the sum over the turns that follow is a function of the state alone, so the expected gradient is that of RLOO on the
outcome for any potential: shaping can reduce the variance of the estimate and nothing else. It does where
Phi(s_t) - Phi(s_0) resembles what the searches so far have changed in the expected outcome.

alpha is fitted by default, as that resemblance differs between policies: for each group, the alpha of least squares
that minimises the squared advantages of the other groups of the batch (a control variate's coefficient, Cov / Var).
The group's own actions do not influence it, so nothing is biased. Neither are gains stabilised, nor is anything divided
by a standard deviation: either would make the sum depend on the actions.

    python algorithms/ig_grpo_potential.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import Float64s, discounted_sums, rloo_advantages
from algorithms.common.training.potentials import check_potentials, turn_potentials
from igsearch_env.errors import check_range
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.trajectory import GainForm


@dataclass(frozen=True)
class IGGRPOPotentialConfig(TrainConfig):
    """Options of IG-GRPO with potential-based shaping."""

    alpha: float | None = None
    """Weight of the potential; None: fitted on the other groups of the batch; at 0 this is RLOO."""
    gain: GainForm = "probability"
    """Potential: the probability of the golden answer (e^s), or its mean token log-prob s, in nats."""
    gamma: float = 1.0
    """Discount factor per turn."""
    information_gain: InformationGainConfig = field(
        default_factory=lambda: InformationGainConfig(baseline="previous", head_weight=1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha or 0.0, 0)
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
        counts, of_turns = buffer.turn_counts, np.repeat(buffer.group_index, buffer.turn_counts)
        lost = np.repeat(buffer.lost_siblings, counts)
        last = np.cumsum(counts) - 1
        rewards = np.zeros(int(counts.sum()))
        rewards[last] = buffer.outcomes
        returns = discounted_sums(rewards, counts, self.config.gamma)
        of_episodes = returns[last - counts + 1]
        siblings = of_episodes - rloo_advantages(of_episodes, buffer.group_index)  # mean over them; 0 without any
        credit = returns - np.repeat(siblings, counts)
        potentials = turn_potentials(buffer, self.config.gain)  # the sums of F that follow, with the other sign
        alpha = self.config.alpha
        if alpha is None:
            compared = np.where(lost, 0, buffer.turn_tokens)  # the others have no advantages to be minimised
            weights = fitted_weights(credit, potentials, compared, of_turns)
        else:
            weights = np.full(len(credit), alpha)
        shaped = credit - weights * potentials
        return buffer.broadcast_turns(np.where(lost, 0.0, shaped))


def fitted_weights(credit_S: ArrayLike, potentials_S: ArrayLike, tokens_S: ArrayLike, groups_S: ArrayLike) -> Float64s:
    """alpha of each of S turns, that minimises sum tokens (credit - alpha potential)^2 over all other groups.

    0 where no other group has a potential.
    """
    credit, potentials, groups = np.asarray(credit_S), np.asarray(potentials_S), np.asarray(groups_S)
    weighted = np.asarray(tokens_S) * potentials
    products, squares = np.bincount(groups, weighted * credit), np.bincount(groups, weighted * potentials)
    others = squares.sum() - squares
    alphas = np.where(others > 1e-9, (products.sum() - products) / np.maximum(others, 1e-9), 0.0)
    return np.asarray(alphas[groups])


if __name__ == "__main__":
    from algorithms.common.command import main

    main(IGGRPOPotential, IGGRPOPotentialConfig, __doc__)
