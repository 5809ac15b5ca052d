"""Advantage estimators: pure functions of rewards and groups (numpy).

Shapes: N trajectories, `groups_N` their group numbers. Equations and sources: docs/algorithms.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64s = NDArray[np.float64]


def group_statistics(
    rewards_N: ArrayLike, groups_N: ArrayLike, *, ddof: int = 1
) -> tuple[Float64s, Float64s, NDArray[np.int64]]:
    """Mean, standard deviation (over n - ddof) and size of each trajectory's group. A group of one has deviation 0."""
    rewards = np.asarray(rewards_N, dtype=np.float64)
    _, index, sizes = np.unique(np.asarray(groups_N), return_inverse=True, return_counts=True)
    means = np.bincount(index, rewards) / sizes
    squares = np.bincount(index, (rewards - means[index]) ** 2)
    deviations = np.sqrt(squares / np.maximum(sizes - ddof, 1))
    return means[index], deviations[index], sizes[index]


def grpo_advantages(
    rewards_N: ArrayLike, groups_N: ArrayLike, *, scale_by_std: bool = True, eps: float = 1e-6
) -> Float64s:
    """GRPO (arXiv 2402.03300, section 4.1.2): A_i = (r_i - mean) / (std + eps) within the group.

    `scale_by_std` False is Dr. GRPO (arXiv 2503.20783): A_i = r_i - mean. The deviation is Bessel-corrected, as
    in verl and Search-R1. A group of one keeps its reward (mean 0, std 1), as in verl. A group whose rewards
    are all equal gets exactly 0.
    """
    rewards = np.asarray(rewards_N, dtype=np.float64)
    means, deviations, sizes = group_statistics(rewards, groups_N)
    alone = sizes == 1
    centred = np.where(alone, rewards, rewards - means)
    centred[~alone & (deviations <= 1e-12)] = 0.0  # equal rewards: only rounding errors are left
    return centred / (np.where(alone, 1.0, deviations) + eps) if scale_by_std else centred


def standardised(values_N: ArrayLike, groups_N: ArrayLike, *, ddof: int = 1, eps: float = 1e-6) -> Float64s:
    """(x - mean) / (std + eps) within each group; 0 in a group of one, or whose deviation (over n - ddof) is below eps.

    Unlike in `grpo_advantages`, a group of one has nothing.
    """
    means, deviations, _ = group_statistics(values_N, groups_N, ddof=ddof)
    centred = np.asarray(values_N, dtype=np.float64) - means
    return np.where(deviations < eps, 0.0, centred / (deviations + eps))


def rloo_advantages(rewards_N: ArrayLike, groups_N: ArrayLike) -> Float64s:
    """RLOO (arXiv 2402.14740, section 2.3): A_i = r_i - mean of the others' rewards in the group.

    That is n / (n - 1) (r_i - mean). A group of one keeps its reward, as in verl.
    """
    rewards = np.asarray(rewards_N, dtype=np.float64)
    means, _, sizes = group_statistics(rewards, groups_N)
    alone = sizes == 1
    return np.asarray(np.where(alone, rewards, sizes / np.maximum(sizes - 1, 1) * (rewards - means)))


def whiten(values: ArrayLike, *, out: Float64s | None = None) -> Float64s:
    """(x - mean) / sqrt(var + 1e-8) over all values, the variance Bessel-corrected, as in verl.

    `out`, which may be `values`, receives the result: for long vectors, allocation takes longer than the arithmetic.
    """
    x = np.asarray(values, dtype=np.float64)
    centred: Float64s = np.subtract(x, x.mean(), out=out)
    centred /= np.sqrt(np.einsum("i,i->", centred, centred) / max(x.size - 1, 1) + 1e-8)
    return centred


def discounted_sums(values: ArrayLike, lengths_N: ArrayLike, gamma: float) -> Float64s:
    """S_t = x_t + gamma S_{t+1} within each of N sequences, which are concatenated in `values`."""
    sums = np.array(values, dtype=np.float64)
    _accumulate(sums, lengths_N, gamma)
    return sums


def _accumulate(sums: Float64s, lengths_N: ArrayLike, gamma: float) -> None:
    """`discounted_sums` in place, as cumulative sums from the end: gamma^t S_t = sum_{k >= t} gamma^k x_k.

    A rounding error shrinks with the term that it is in, so this is as precise as the recursion. Sequences are split
    into pieces before gamma^k gets close to the smallest float.
    """
    ends = np.cumsum(lengths_N, dtype=np.int64).tolist()
    longest, decay = int(np.max(lengths_N, initial=1)), -math.log(max(gamma, 1e-300))
    piece = longest if decay * longest < 500 else max(int(500 / decay), 1)
    powers = gamma ** np.arange(piece)
    for start, end in zip([0, *ends], ends, strict=False):
        for high in range(end, start, -piece):
            part = sums[max(high - piece, start) : high]
            if high < end:
                part[-1] += gamma * sums[high]
            if gamma < 1:
                part *= powers[: len(part)]
            np.add.accumulate(part[::-1], out=part[::-1])
            if gamma < 1:
                part /= powers[: len(part)]


def gae(rewards: ArrayLike, values: ArrayLike, lengths_N: ArrayLike, *, gamma: float, lam: float) -> Float64s:
    """Generalised advantage estimation (arXiv 1506.02438, Eq. 16) over the concatenated policy tokens of N episodes.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}. Observation tokens are not in these
    sequences, so they cost no discount (the hole-aware form of verl).
    """
    v = np.asarray(values)
    advantages = np.empty(len(v))
    np.multiply(v[1:], gamma, out=advantages[:-1], dtype=np.float64)
    advantages[np.cumsum(lengths_N) - 1] = 0.0  # nothing follows the last token of an episode
    advantages += np.asarray(rewards)
    advantages -= v
    _accumulate(advantages, lengths_N, gamma * lam)
    return advantages


def overlong_penalty(lengths_N: ArrayLike, *, max_length: int, buffer_length: int, factor: float = 1.0) -> Float64s:
    """DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13): 0 up to max - buffer, then down to -factor."""
    lengths = np.asarray(lengths_N, dtype=np.float64)
    excess = lengths - (max_length - buffer_length)
    return np.asarray(np.minimum(-excess / buffer_length * factor, 0.0) + 0.0)


def all_equal_share(rewards_N: ArrayLike, groups_N: ArrayLike) -> float:
    """Share of groups in which all trajectories have the same reward, and which have no outcome signal."""
    _, deviations, sizes = group_statistics(rewards_N, groups_N)
    return float(np.sum((deviations <= 1e-12) / sizes) / np.sum(1 / sizes)) if len(sizes) else 0.0
