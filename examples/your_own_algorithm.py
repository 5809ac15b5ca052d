"""A custom algorithm in one file: RLOO, with additional credit for the searches that led to the answer.

f_i is the number of the first search of rollout i whose passages hold a golden answer.

    R_{i,n} = gamma^{f_i - n},  0 if the answer was never found                        for its searches n <= f_i
    A       = A_i + beta (R_{i,n} - mean_{j != i} R_{j,n})                             on the tokens of search n <= f_i
            = A_i                                                                      elsewhere; A_i as in RLOO

The n-th search is compared with the n-th search of the siblings; without siblings it keeps its R, as a group of one
does in RLOO. The mean does not depend on rollout i, so it adds no bias. Earlier hops get a discounted part of the
credit; a search after f_i gets none. The reward for passages with the answer is that of MT-GRPO (arXiv 2505.11821);
discount and comparison are ours. A group in which all rollouts fail still learns which queries found the answer. Golden
answers must be strings of the corpus; yes and no are not.

    python examples/your_own_algorithm.py --steps 20                         docs/extending.md begins with a smaller one
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import rloo_advantages
from igsearch_env.errors import check_range
from igsearch_env.rewards import normalize_answer
from igsearch_env.trajectory import Trajectory, Turn


@dataclass(frozen=True)
class FirstSightConfig(TrainConfig):
    """Options of FirstSight: the fields are its command-line options, their docstrings the help texts."""

    beta: float = 0.5
    """Weight of the search credit relative to the outcome; 0: RLOO."""
    gamma: float = 0.9
    """Discount factor per search before the answer is found."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beta", self.beta, 0)
        check_range("gamma", self.gamma, 0, 1)


class FirstSight(Algorithm):
    """FirstSight: RLOO on outcomes, plus RLOO on the discounted search returns among the siblings' n-th searches."""

    name = "first_sight"

    def __init__(self, config: FirstSightConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token, in the buffer's flat layout."""
        compared = rloo_advantages(buffer.outcomes, buffer.group_index)
        advantages = buffer.broadcast(
            np.where(buffer.lost_siblings, 0.0, compared)
        )  # without siblings there is nothing to compare with
        places, returns, siblings = [], [], []
        for row, trajectory in enumerate(buffer.trajectories):
            starts = buffer.first_token[row] + np.cumsum([0, *(len(turn.completion_ids) for turn in trajectory.turns)])
            for n, (turn, value) in enumerate(search_returns(trajectory, self.config.gamma)):
                places.append(slice(starts[turn], starts[turn + 1]))
                returns.append(value)
                siblings.append(n * len(buffer.groups) + buffer.group_index[row])  # equal numbers are compared
        for tokens, credit in zip(places, rloo_advantages(returns, siblings), strict=True):
            advantages[tokens] += self.config.beta * credit
        return advantages


def search_returns(trajectory: Trajectory, gamma: float) -> list[tuple[int, float]]:
    """Turn number and return of each search up to the first that finds the answer; of all searches if none does."""
    searches = [number for number, turn in enumerate(trajectory.turns) if turn.is_search]
    for found, number in enumerate(searches):
        if in_sight(trajectory.question.golden_answers, trajectory.turns[number]):
            return [(turn, gamma ** (found - n)) for n, turn in enumerate(searches[: found + 1])]
    return [(turn, 0.0) for turn in searches]


def in_sight(golden_answers: tuple[str, ...], search: Turn) -> bool:
    """Whether a golden answer occurs in a passage, as whole words after normalisation."""
    texts = [f" {normalize_answer(f'{passage.title} {passage.text}')} " for passage in search.passages]
    golds = [normalize_answer(gold) for gold in golden_answers]
    return any(f" {gold} " in text for gold in golds if gold for text in texts)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(FirstSight, FirstSightConfig, __doc__)
