"""Trajectory graphs of GRAFT (arXiv 2609.28963): the transitions of all episodes of a group, joined at equal states.

Shapes: S turns of N episodes, one episode after another; `nodes_S` the state before each turn (numbers 0..K-1, no two
groups share one); `lengths_N` turns of each episode. The last turn of an episode leads to a sink of its own, whose
value is the reward of the episode.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.rollout.buffer import Ints
from algorithms.common.training.advantages import Float64s

CONVERGED = 1e-12  # largest change of a value in the last sweep


def next_values(values_K: Float64s, nodes_S: Ints, lengths_N: ArrayLike, rewards_N: ArrayLike) -> Float64s:
    """Value of the state after each turn."""
    after_S = values_K[np.roll(nodes_S, -1)]
    after_S[np.cumsum(lengths_N) - 1] = rewards_N
    return after_S


def state_values(nodes_S: Ints, lengths_N: ArrayLike, rewards_N: ArrayLike, gamma: float) -> Float64s:
    """V of each node: the fixed point of V(u) = mean of gamma V(v) over the transitions u -> v (Eq. 5 and 6).

    In Eq. 5 the empirical probabilities of the actions and of their next states multiply to the share of each
    transition, so actions do not matter. Every node leads to a sink, so the sweeps also converge with gamma = 1.
    """
    counts_K = np.bincount(nodes_S)
    values_K = np.zeros(len(counts_K))
    while True:
        after_S = next_values(values_K, nodes_S, lengths_N, rewards_N)
        swept_K = gamma * np.bincount(nodes_S, after_S) / counts_K
        change = np.abs(swept_K - values_K).max(initial=0.0)
        values_K = swept_K
        if change <= CONVERGED:
            return values_K


def graph_gae(
    nodes_S: Ints,
    actions_S: Sequence[Hashable],
    lengths_N: ArrayLike,
    rewards_N: ArrayLike,
    groups_S: Ints,
    *,
    gamma: float,
    lam: float,
) -> Float64s:
    """A_t + sum_{k = 1..T - t} (gamma lam)^k mean of the residuals k hops behind turn t (Eq. 8 to 10).

    A_t = gamma V(s_{t+1}) - V(s_t) is the residual of a transition. The k-th mean is over the distinct edges (state,
    action, next state) that leave the states which k - 1 transitions can lead to from s_{t+1}.
    """
    values_K = state_values(nodes_S, lengths_N, rewards_N, gamma)
    residuals_S = gamma * next_values(values_K, nodes_S, lengths_N, rewards_N) - values_K[nodes_S]
    lengths = np.asarray(lengths_N, dtype=np.int64)
    last_S = np.zeros(len(nodes_S), dtype=np.bool_)
    last_S[np.cumsum(lengths) - 1] = True
    left_S = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(n)[::-1] for n in lengths.tolist())])
    episodes_S = np.repeat(np.arange(len(lengths)), lengths)
    heads_S = np.where(last_S, -1 - episodes_S, np.roll(nodes_S, -1))  # sinks have numbers of their own, below 0
    advantages_S = residuals_S.copy()
    for group in np.unique(groups_S) if lam * gamma > 0 else ():
        turns = np.flatnonzero(groups_S == group)
        names, local = np.unique(nodes_S[turns], return_inverse=True)
        inner = ~last_S[turns]
        heads = np.searchsorted(names, heads_S[turns[inner]])
        leads = np.zeros((len(names), len(names)), dtype=np.bool_)
        leads[local[inner], heads] = True
        edges = {(nodes_S[t], actions_S[t], heads_S[t]): t for t in turns.tolist()}
        distinct = np.searchsorted(turns, sorted(edges.values()))
        counts = np.bincount(local[distinct], minlength=len(names))
        sums = np.bincount(local[distinct], residuals_S[turns[distinct]], len(names))
        reached = np.eye(len(names), dtype=np.bool_)[heads]  # states after each turn but the last ones
        for k in range(1, int(lengths.max())):
            going = left_S[turns[inner]] >= k
            means = (reached @ sums)[going] / (reached @ counts)[going]
            advantages_S[turns[inner][going]] += (gamma * lam) ** k * means
            reached = reached @ leads
    return advantages_S
