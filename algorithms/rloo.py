"""RLOO: REINFORCE with the mean reward of the siblings as the baseline (arXiv 2402.14740, section 2.3).

    A_i = r_i - (1 / (G - 1)) sum_{j != i} r_j                                     on every policy token of i

A group of one keeps its reward, as in verl (its vectorised variant gives 0), unless it had more members, whose
retrieval failed: then A is 0. The paper uses the plain policy gradient;
the default here is the clipped loss, as in verl (with one update per step, both have the same gradient).

    python algorithms/rloo.py --steps 60 --seed 0
"""

from __future__ import annotations

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import rloo_advantages


class RLOO(Algorithm):
    """RLOO: compares the reward of each trajectory with the mean reward of the others in its group."""

    name = "rloo"

    def __init__(self, config: TrainConfig) -> None:
        pass

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        return buffer.broadcast(
            np.where(buffer.lost_siblings, 0.0, rloo_advantages(buffer.outcomes, buffer.group_index))
        )


if __name__ == "__main__":
    from algorithms.common.command import main

    main(RLOO, TrainConfig, __doc__)
