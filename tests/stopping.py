"""A question so small that every episode, every group, and so the expectation of every estimate, can be enumerated.

Two facts are needed. At each of two turns the policy answers, searches well ("g": it finds a fact) or uselessly ("u");
after two searches it must answer. The outcome is the share of the facts found. A turn is one policy token. The policy
is a tabular softmax over what it did so far: logits theta_SA of S = 3 states (no search yet, "g", "u") and A actions.

Shapes: N paths (an episode is the string of its searches), T = 3 turns, K groups of G paths.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement, product

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.loss import token_weights
from igsearch.testing.buffers import buffer_of, question
from igsearch_env.protocols import Answer, Search
from igsearch_env.trajectory import ANSWERED, Attempt, Gain, Trajectory, Turn
from retrievers.base import Passage

Array = NDArray[np.float64]
Estimator = Callable[[RolloutBuffer], NDArray[np.float32]]

ANSWER = "A"
STATES = ("", "g", "u")
TURNS = 3
FACTS = ["first fact", "second fact"]
GAINS = {"g": 0.375, "u": 0.125}  # nats; sums of eighths, so that float32 rounds nothing


def rewards_of(path: str) -> list[float]:
    """What each turn earns: the gains of the searches, then the outcome."""
    return [*(GAINS[kind] for kind in path), outcome(path)]


def outcome(path: str) -> float:
    """Share of the facts found."""
    return path.count("g") / 2


def episode(path: str, gains: Mapping[str, float] = GAINS, bonus: float = 0.0) -> Trajectory:
    """A path as a trajectory, as every algorithm reads it: gains of searches, and each turn an attempt that earned.

    `bonus` is added to the outcome. Observations name the whole path, so that an anchor is a state. A good search finds
    the page of the first or of the second fact.
    """
    turns, before = [], -1.0
    for t, kind in enumerate(path):
        gain = Gain(gains[kind], before + gains[kind], before)
        fact = FACTS[path[:t].count("g")]
        found = (Passage(fact, fact, ""),) if kind == "g" else ()
        turns.append(Turn("s", Search(kind), path[: t + 1], found, gain, 0.0, (2,), (-1.0,), (0, 1)))
        before = gain.logprob_real
    turns.append(Turn("a", Answer("y"), completion_ids=(3,), logprobs=(-1.0,)))
    earned = outcome(path) + bonus
    rewards = [*(gains[kind] for kind in path), earned]
    attempts = [Attempt(t + 1, "y", reward) for t, reward in enumerate(rewards)]
    asked = replace(question(), metadata={"supporting_titles": FACTS})
    return Trajectory(asked, "prompt", turns, "y", earned, ANSWERED, (1,), attempts)


@dataclass(frozen=True)
class Toy:
    """The decision problem. Without `ANSWER` among its actions the policy can't choose when to stop."""

    actions: str = ANSWER + "gu"

    @cached_property
    def paths(self) -> list[str]:
        """Every episode that can happen."""
        return [
            path
            for length in range(TURNS)
            for path in map("".join, product("gu", repeat=length))
            if ANSWER in self.actions or length == TURNS - 1
        ]

    @cached_property
    def searches(self) -> Array:
        """Number of searches of each path."""
        return np.array([len(path) for path in self.paths], dtype=float)

    @cached_property
    def outcomes(self) -> Array:
        """Outcome of each path."""
        return np.array([outcome(path) for path in self.paths])

    @cached_property
    def gains(self) -> Array:
        """Summed information gain of each path."""
        return np.array([sum(GAINS[kind] for kind in path) for path in self.paths])

    def policy(self, theta_SA: Array) -> Array:
        """Probability of each action in each state."""
        weights = np.exp(theta_SA - theta_SA.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def decisions(self, path: str) -> list[tuple[int, int]]:
        """State and action of each turn that is the policy's choice; the answer after two searches is not."""
        taken = (path + ANSWER)[: TURNS - 1]
        return [(STATES.index(path[:t]), self.actions.index(kind)) for t, kind in enumerate(taken)]

    def probabilities(self, theta_SA: Array) -> Array:
        """Probability of each path."""
        policy = self.policy(theta_SA)
        return np.array([math.prod(policy[place] for place in self.decisions(path)) for path in self.paths])

    def scores(self, theta_SA: Array) -> Array:
        """grad log pi(a_t | s_t) of each turn of each path: N, T, S, A."""
        policy = self.policy(theta_SA)
        scores = np.zeros((len(self.paths), TURNS, *policy.shape))
        for n, path in enumerate(self.paths):
            for t, (state, action) in enumerate(self.decisions(path)):
                scores[n, t, state] = -policy[state]
                scores[n, t, state, action] += 1
        return scores

    def gradient(self, theta_SA: Array, returns_N: ArrayLike) -> Array:
        """The exact gradient of E[return]."""
        weights = self.probabilities(theta_SA) * np.asarray(returns_N)
        return np.asarray(np.einsum("n,ntsa->sa", weights, self.scores(theta_SA)))

    def values(self, theta_SA: Array, *, gamma: float = 1.0, gain_weight: float = 0.0) -> dict[str, float]:
        """V of each state, as the searches that led there: the expected rewards from there on, discounted per turn."""
        policy, values = self.policy(theta_SA), dict[str, float]()
        for path in sorted(Toy().paths, key=len, reverse=True):
            if len(path) == TURNS - 1:
                values[path] = outcome(path)
                continue
            after = [
                outcome(path) if kind == ANSWER else gain_weight * GAINS[kind] + gamma * values[path + kind]
                for kind in self.actions
            ]
            values[path] = float(policy[STATES.index(path)] @ after)
        return values

    def mean_rewards(self, theta_SA: Array) -> tuple[Array, Array]:
        """b_t, the mean reward of turn t among the episodes that reach it, and the probability that one does."""
        chances = self.probabilities(theta_SA)
        earned = np.array([rewards_of(path) + [0.0] * (TURNS - 1 - len(path)) for path in self.paths])
        reached = self.searches[:, None] >= np.arange(TURNS)
        return chances @ earned / (chances @ reached), chances @ reached


@dataclass(frozen=True)
class Advantages:
    """What an estimator makes of each group that can be drawn, times the loss's token weights; independent of theta."""

    toy: Toy
    groups_KG: NDArray[np.int64]
    orders_K: Array  # in how many orders each group can be drawn
    weighted_KGT: Array

    def expected(self, theta_SA: Array) -> Array:
        """E[sum_i sum_t w_it A_it grad log pi(a_t | s_t)] over all groups: no sampling."""
        chances = self.orders_K * self.toy.probabilities(theta_SA)[self.groups_KG].prod(axis=1)
        credit_NT = np.zeros((len(self.toy.paths), TURNS))
        np.add.at(credit_NT, self.groups_KG, chances[:, None, None] * self.weighted_KGT)
        return np.asarray(np.einsum("nt,ntsa->sa", credit_NT, self.toy.scores(theta_SA)))

    def variance(self, theta_SA: Array) -> float:
        """E[||g - E[g]||^2] over all groups: the trace of the estimate's covariance."""
        chances = self.orders_K * self.toy.probabilities(theta_SA)[self.groups_KG].prod(axis=1)
        estimates = np.einsum("kgt,kgtsa->ksa", self.weighted_KGT, self.toy.scores(theta_SA)[self.groups_KG])
        return float(chances @ (estimates**2).sum(axis=(1, 2)) - (self.expected(theta_SA) ** 2).sum())


def enumerate_groups(
    toy: Toy,
    estimator: Estimator,
    size: int,
    *,
    episodes: list[Trajectory] | None = None,
    aggregation: str = "seq-mean-token-sum",
) -> Advantages:
    """Run an estimator on every group of `size` episodes, each as a batch of its own."""
    played = episodes if episodes is not None else [episode(path) for path in toy.paths]
    lengths = np.array([len(path) + 1 for path in toy.paths])
    groups = list(combinations_with_replacement(range(len(toy.paths)), size))
    orders = [math.factorial(size) / math.prod(map(math.factorial, Counter(group).values())) for group in groups]
    weighted = np.zeros((len(groups), size, TURNS))
    for k, group in enumerate(groups):
        mask = np.arange(TURNS) < lengths[list(group)][:, None]
        tokens = int(mask.sum())
        weights = token_weights(torch.from_numpy(mask), aggregation, horizon=None, tokens=tokens, sequences=size)
        weighted[k][mask] = estimator(buffer_of([[played[n] for n in group]]))
        weighted[k] *= weights.double().numpy()
    return Advantages(toy, np.array(groups), np.array(orders), weighted)
