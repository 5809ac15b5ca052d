"""CW-GRPO: GRPO that shares a success among the searches that contributed to it (arXiv 2604.14267).

    w_t = exp(gamma v_t) / sum_k exp(gamma v_k)     over the n search rounds of an episode; v_t = 1 for a good one, or 0
        = v_t / sum_k v_k                           if gamma >= 10, which counts as infinite; 0 without a good round
    A_t = A w_t n                                   on the tokens of search round t, if A >= 0
        = A                                         if A < 0, and on the last round (the answer)

A is GRPO's advantage; weights of the rounds add up to n, so that a success keeps its total if rounds are of equal
length. gamma = 100 in the authors' script: with one good round of four, its tokens get 4 A and the other searches
nothing. Every turn but the last is a round; an invalid action is one that is not good.

The paper asks a language model whether a round found relevant new passages, and whether its thought is sound; v_t is
the product. There is no such model here, so the judgement is ours:

    --judge gain      the stabilised information gain of the search is positive
    --judge support   the search found a supporting passage (or page, by its title) that no earlier search found;
                      a question whose data name no supporting titles keeps GRPO's advantages; a batch of such
                      questions alone is an error

Their loss: KL term --loss.kl-coef 0.001, four mini-batches (--optimizer.num-minibatches 4).

    python algorithms/cw_grpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import Float64s as Values
from algorithms.common.training.advantages import grpo_advantages
from algorithms.common.training.retrieved_evidence import check_evidence
from algorithms.common.training.search_quality import found_new_support
from igsearch_env.errors import check_range
from igsearch_env.trajectory import Trajectory

INFINITE = 10.0  # from this gamma on, the weights are those of gamma -> infinity


@dataclass(frozen=True)
class CWGRPOConfig(TrainConfig):
    """Options of CW-GRPO; the defaults are those of the authors' script, except the judge."""

    gamma: float = 100.0
    """Sharpness of the weights of rounds: 0 is GRPO; from 10 on only good rounds of a success are reinforced."""
    judge: Literal["gain", "support"] = "gain"
    """What makes a round good: a positive stabilised information gain, or a new supporting page (both ours)."""
    scale_by_std: bool = True
    """Divide GRPO's advantage by the group's standard deviation (`norm_adv_by_std_in_grpo` in the code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0)


class CWGRPO(Algorithm):
    """CW-GRPO: GRPO's advantage, weighted by how much each search of a successful trajectory contributed."""

    name = "cw_grpo"

    def __init__(self, config: CWGRPOConfig) -> None:
        self.config = config
        self.needs_information_gain = config.judge == "gain"

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        config = self.config
        if self.needs_information_gain:
            buffer.check_gains()
        else:
            check_evidence(buffer, "judge='support'", "--judge gain")
        plain = grpo_advantages(buffer.outcomes, buffer.group_index, scale_by_std=config.scale_by_std)
        judged = [self._judge(trajectory) for trajectory in buffer.trajectories]
        per_turn = turn_advantages(np.where(buffer.lost_siblings, 0.0, plain), judged, config.gamma)
        return buffer.broadcast_turns(per_turn)

    def _judge(self, trajectory: Trajectory) -> list[float]:
        """v of each round but the last; equal ones, whose weights are 1, where nothing is known."""
        rounds = range(len(trajectory.turns) - 1)
        if self.config.judge == "support":
            known = bool(trajectory.question.supporting_titles)
            return [float(found_new_support(trajectory, number) if known else True) for number in rounds]
        stabilised = self.config.information_gain.stabilised
        return [float(stabilised(trajectory.turns[number].gain) > 0) for number in rounds]


def turn_advantages(advantages_N: ArrayLike, judged: Sequence[Sequence[float]], gamma: float) -> Values:
    """Advantage of each round, trajectory by trajectory.

    Args:
        advantages_N: GRPO's, of each trajectory.
        judged: v of each round of a trajectory but its last.
        gamma: sharpness of the weights.
    """
    result: list[float] = []
    for advantage, rounds in zip(np.asarray(advantages_N).tolist(), judged, strict=True):
        weights = round_weights(rounds, gamma) if advantage >= 0 else np.ones(len(rounds))
        result += [*(advantage * weights).tolist(), advantage]
    return np.array(result)


def round_weights(judged: Sequence[float], gamma: float) -> Values:
    """n w_t of the n search rounds of an episode, from their judgements v in {0, 1}."""
    v = np.asarray(judged, dtype=np.float64)
    parts = v if gamma >= INFINITE else np.exp(gamma * (v - v.max(initial=0.0)))
    return np.asarray(len(v) * parts / max(parts.sum(), 1e-6))


if __name__ == "__main__":
    from algorithms.common.command import main

    main(CWGRPO, CWGRPOConfig, __doc__)
