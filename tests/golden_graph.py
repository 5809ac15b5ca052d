"""What methods that credit single steps give on golden cases: one function per kind, outputs by the golden's names."""

from __future__ import annotations

from typing import Any

import numpy as np
from golden_reader import Case

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.common.training.trajectory_graph import state_values
from algorithms.gigpo import anchor_states
from algorithms.graft import GRAFT, GRAFTConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.protocols import Answer, Search
from igsearch_env.trajectory import Trajectory

Outputs = dict[str, Any]


def _through(states: list[str], actions: list[str], reward: float) -> Trajectory:
    """An episode whose observations are the states after the first one, which is the question; a token per turn."""
    turns = [search_turn((1,)) for _ in actions[:-1]]
    for turn, action, read in zip(turns, actions, states[1:], strict=False):
        turn.action, turn.observation = Search(action), read
    last = answer_turn((1,))
    last.action = Answer(actions[-1])
    return trajectory([*turns, last], reward)


def _by_episode(buffer: RolloutBuffer, values: Any) -> list[list[float]]:
    """A value per turn (of one token each) as a list per episode."""
    ends = np.cumsum(buffer.turn_counts)[:-1]
    return [part.tolist() for part in np.split(np.asarray(values), ends)]


def trajectory_graph(case: Case) -> Outputs:
    """GRAFT on episodes that pass through named states."""
    rows = case.get("trajectories")
    buffer = buffer_of([[_through(row["states"], row["actions"], row["reward"]) for row in rows]])
    gamma = case.get("gamma")
    states = [state for t in buffer.trajectories for state in anchor_states(t)]
    nodes = anchor_clusters(states, np.zeros(len(states), dtype=np.int64), None)
    values = state_values(nodes, buffer.turn_counts, [row["reward"] for row in rows], gamma)
    named = dict(zip([name for row in rows for name in row["states"]], values[nodes].tolist(), strict=True))

    def advantages(graph_lambda: float, normalise: bool) -> list[list[float]]:
        config = GRAFTConfig(gamma=gamma, graph_lambda=graph_lambda, similarity=None, normalise=normalise)
        return _by_episode(buffer, GRAFT(config).advantages(buffer))

    lam = case.get("lambda")
    return {
        "values": named,
        "td": advantages(0.0, normalise=False),
        "gae": advantages(lam, normalise=False),
        "advantages": advantages(lam, normalise=True),
    }
