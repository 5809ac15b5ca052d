"""MT-GRPO: GRPO with a second comparison, of the rewards of searches (arXiv 2505.11821).

    z(x)_i = (x_i - mean_group) / (std_group + 1e-4)                                 Bessel-corrected deviation
    A_i^O  = z(outcome)_i;   A_{i,k}^T = z(R_k)_i                R_{j,k} = reward of the k-th search of rollout j, or 0
    A_i    = A_i^O + c A_{i,1}^T      on the policy tokens before the result of the first search
           = A_i^O                    on those after it
           = z(R + outcome)_i         on all tokens of a rollout without a search; R = the sum of its turn rewards

The published experiment has one search per episode, and the authors' code credits the first result alone. The second
version of the paper treats K turns by a tree of rollouts, all with K turns; here rollouts stay independent:

    --searches first   only the first search has a turn reward (the authors' code)
    --searches every   A_i^O + c A_{i,k}^T on the tokens between the results of searches k - 1 and k, for all k (ours);
                       the same where no episode has a second search
    --turn-reward found_answer   0.5 if the passages of the search contain a golden answer (the paper's reward)
    --turn-reward gain           stabilised information gain of the search, in nats (ours)

Not adopted from the code: 0.2 for a call that runs, rewards for the format, answers as parts of words, and two passes
over each batch (--optimizer.epochs 2).

    python algorithms/mt_grpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import Float64s as Values
from algorithms.common.training.advantages import grpo_advantages
from algorithms.common.training.search_quality import found_answer
from igsearch_env.errors import check_range
from igsearch_env.trajectory import Trajectory


@dataclass(frozen=True)
class MTGRPOConfig(TrainConfig):
    """Options of MT-GRPO; the defaults are those of the authors' code."""

    turn_advantage_coef: float = 1.0
    """c, weight of the comparison of turn rewards."""
    turn_reward: Literal["found_answer", "gain"] = "found_answer"
    """Reward of a search: 0.5 if its passages contain a golden answer, or its stabilised information gain (ours)."""
    searches: Literal["first", "every"] = "first"
    """Searches that have a turn reward: the first one of an episode (code), or every one (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("turn_advantage_coef", self.turn_advantage_coef, 0)
        check_siblings(self.rollout.group_size, "MT-GRPO", "train with algorithms/reinforce_plus_plus.py")


class MTGRPO(Algorithm):
    """MT-GRPO: compares outcomes within the group, and the rewards of searches on the tokens that led to them."""

    name = "mt_grpo"

    def __init__(self, config: MTGRPOConfig) -> None:
        self.config = config
        self.needs_information_gain = config.turn_reward == "gain"

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token; 0 where all siblings were lost to failed retrievals."""
        config = self.config
        if self.needs_information_gain:
            buffer.check_gains()
        rewards = [self._turn_rewards(trajectory) for trajectory in buffer.trajectories]
        per_turn = turn_advantages(
            buffer.outcomes, rewards, buffer.group_index, config.turn_advantage_coef, every=config.searches == "every"
        )
        return buffer.broadcast_turns(np.where(np.repeat(buffer.lost_siblings, buffer.turn_counts), 0.0, per_turn))

    def _turn_rewards(self, trajectory: Trajectory) -> list[float | None]:
        """Reward of each turn that is a search with a result, which is one that something was read after."""
        last = len(trajectory.turns) - 1
        searched = [t.is_search and (n < last or bool(t.observation)) for n, t in enumerate(trajectory.turns)]
        return [self._reward(trajectory, n) if there else None for n, there in enumerate(searched)]

    def _reward(self, trajectory: Trajectory, turn: int) -> float:
        if self.config.turn_reward == "found_answer":
            return 0.5 * found_answer(trajectory, turn)
        return self.config.information_gain.stabilised(trajectory.turns[turn].gain)


def turn_advantages(
    outcomes_N: ArrayLike, rewards: Sequence[Sequence[float | None]], groups_N: ArrayLike, coef: float, *, every: bool
) -> Values:
    """Advantage of each turn, trajectory by trajectory; `every`: all searches count, not only the first ones.

    `rewards`: for each trajectory, the reward of each turn that is a search with a result, None for other turns.
    """
    earned = [[reward for reward in turns if reward is not None][: None if every else 1] for turns in rewards]
    table_NK = np.zeros((len(earned), max(map(len, earned))))
    for row, own in zip(table_NK, earned, strict=True):
        row[: len(own)] = own
    compared = (np.asarray(outcomes_N) + table_NK.sum(1), np.asarray(outcomes_N), *table_NK.T)
    combined_N, outcome_N, *turn_KN = (grpo_advantages(values, groups_N, eps=1e-4) for values in compared)
    result = []
    for n, turns in enumerate(rewards):
        ahead = [outcome_N[n] + coef * turn_N[n] for turn_N in turn_KN[: len(earned[n])]]  # of the k-th result
        after = outcome_N[n] if ahead else combined_N[n]
        for reward in turns:
            result.append(ahead[0] if ahead else after)
            if reward is not None:
                del ahead[:1]
    return np.array(result)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(MTGRPO, MTGRPOConfig, __doc__)
