"""GRAFT: step advantages from the graph of a group's trajectories (arXiv 2609.28963).

    V(u)  = sum_a pi(a|u) sum_v P(v|u,a) gamma V(v),   V(sink of episode i) = r_i              (Eq. 5; counts: Eq. 6)
    A_t   = gamma V(s_{t+1}) - V(s_t) + sum_{k = 1..T - t} (gamma lambda)^k mean_{E_k} [gamma V(v) - V(u)]  (Eq. 8-10)
    A^_t  = (A_t - mean) / (std + eps)   among the turns of a group that start from the same state; alone: A_t / |A_t|
                                                                                               (Eq. 11)

Turns of a group that start from the same state are one node, transitions are edges. E_k are the edges k hops after
turn t. Unlike in GiGPO, a turn is credited with what any sibling achieved from the state that it led to: a good search
of a failed episode gains. Whole episodes are not compared, and the outcome is the only reward.

Read in the paper, whose code is not public: the equations, gamma 0.99, lambda 0.6 and similarity 0.9 for search. Chosen
here: states are GiGPO's anchor states (`--state observation`: what was read last) or all that was read so far (`--state
history`), compared by difflib instead of an embedding that the paper does not name; std with n - 1 and eps 1e-6, as in
GiGPO's code; E_k holds each edge (state, action, next state) once. Counting every transition instead, as one sentence
of the paper says, would make the sum over k exactly 0: Eq. 5 makes the residuals of a node's transitions add up to 0.
The paper's ratio of whole steps (Eq. 4) is not adopted; docs/algorithms.md has the details.

    python algorithms/graft.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, Ints, RolloutBuffer
from algorithms.common.training.advantages import Float64s, grpo_advantages
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.common.training.trajectory_graph import graph_gae
from algorithms.gigpo import anchor_states
from igsearch_env.errors import check_range
from igsearch_env.trajectory import Trajectory

EPS = 1e-6


@dataclass(frozen=True)
class GRAFTConfig(TrainConfig):
    """Options of GRAFT; the defaults are those of the paper for search."""

    gamma: float = 0.99
    """Discount factor per turn."""
    graph_lambda: float = 0.6
    """Weight of the residuals of later hops (lambda of Graph GAE); 0: the residual of the turn alone."""
    state: Literal["observation", "history"] = "observation"
    """State of a turn: the last observation (as in GiGPO), or the question and all observations so far."""
    similarity: float | None = 0.9
    """Minimum difflib ratio at which two states are the same node; None: they must be equal."""
    normalise: bool = True
    """Divide by the deviation of the turns that start from the same state, after subtracting their mean (Eq. 11)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_siblings(self.rollout.group_size, "GRAFT", "use another algorithm")
        check_range("gamma", self.gamma, 0, 1)
        check_range("graph_lambda", self.graph_lambda, 0, 1)
        if self.similarity is not None:
            check_range("similarity", self.similarity, 0, 1)


class GRAFT(Algorithm):
    """GRAFT: credits each turn with the change of the state's value on the graph of its group's trajectories."""

    name = "graft"

    def __init__(self, config: GRAFTConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token, the same on all tokens of a turn; 0 where all siblings were lost."""
        config, counts = self.config, buffer.turn_counts
        groups = np.repeat(buffer.group_index, counts)
        states = [state for t in buffer.trajectories for state in states_of(t, config.state)]
        actions = [turn.action for t in buffer.trajectories for turn in t.turns]
        compared = groups
        if config.state == "history":  # a long text is similar to itself with one more observation, but no state is
            read = np.concatenate([np.cumsum([bool(a) for a in anchor_states(t)]) for t in buffer.trajectories])
            compared = groups * (int(read.max()) + 1) + read
        nodes = anchor_clusters(states, compared, config.similarity)
        outcomes = buffer.outcomes.astype(np.float64)
        advantages = graph_gae(nodes, actions, counts, outcomes, groups, gamma=config.gamma, lam=config.graph_lambda)
        if config.normalise:
            advantages = normalised(advantages, nodes)
        return buffer.broadcast_turns(np.where(np.repeat(buffer.lost_siblings, counts), 0.0, advantages))


def states_of(trajectory: Trajectory, kind: str) -> list[str]:
    """State before each turn."""
    anchors = anchor_states(trajectory)
    if kind == "observation":
        return anchors
    read = anchors[:1]
    for anchor in anchors[1:]:
        read.append(f"{read[-1]}\n{anchor}" if anchor else read[-1])
    return read


def normalised(advantages_S: Float64s, nodes_S: Ints) -> Float64s:
    """Compared with the other turns of the node; a turn without any keeps its sign (mean 0, deviation |A|)."""
    alone_S = np.bincount(nodes_S)[nodes_S] == 1
    signs_S = advantages_S / (np.abs(advantages_S) + EPS)
    return np.where(alone_S, signs_S, grpo_advantages(advantages_S, nodes_S, eps=EPS))


if __name__ == "__main__":
    from algorithms.common.command import main

    main(GRAFT, GRAFTConfig, __doc__)
