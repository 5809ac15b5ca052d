"""Advantage estimators without a critic: pure functions of rewards and groups (numpy).

Shapes: N trajectories, `groups_N` their group numbers. Equations and sources: docs/algorithms.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def group_statistics(rewards_N: ArrayLike, groups_N: ArrayLike) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean, standard deviation (n - 1) and size of each trajectory's group. A group of one has deviation 0."""
    rewards = np.asarray(rewards_N, dtype=np.float64)
    _, index, sizes = np.unique(np.asarray(groups_N), return_inverse=True, return_counts=True)
    means = np.bincount(index, rewards) / sizes
    squares = np.bincount(index, (rewards - means[index]) ** 2)
    deviations = np.sqrt(squares / np.maximum(sizes - 1, 1))
    return means[index], deviations[index], sizes[index]


def grpo_advantages(
    rewards_N: ArrayLike, groups_N: ArrayLike, *, scale_by_std: bool = True, eps: float = 1e-6
) -> Floats:
    """GRPO (arXiv 2402.03300, section 4.1.2): A_i = (r_i - mean) / (std + eps) within the group.

    `scale_by_std` False is Dr. GRPO (arXiv 2503.20783): A_i = r_i - mean. The deviation is Bessel-corrected, as
    in verl and Search-R1. A group of one keeps its reward (mean 0, std 1), as in verl. A group whose rewards
    are all equal gets exactly 0.
    """
    rewards = np.asarray(rewards_N, dtype=np.float64)
    means, deviations, sizes = group_statistics(rewards, groups_N)
    alone = sizes == 1
    centred = np.where(alone, rewards, rewards - means)
    centred[~alone & (deviations <= 1e-12)] = 0.0  # equal rewards: nothing but rounding is left
    return centred / (np.where(alone, 1.0, deviations) + eps) if scale_by_std else centred


def overlong_penalty(lengths_N: ArrayLike, *, max_length: int, buffer_length: int, factor: float = 1.0) -> Floats:
    """DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13): 0 up to max - buffer, then down to -factor."""
    lengths = np.asarray(lengths_N, dtype=np.float64)
    excess = lengths - (max_length - buffer_length)
    return np.asarray(np.minimum(-excess / buffer_length * factor, 0.0) + 0.0)


def all_equal_share(rewards_N: ArrayLike, groups_N: ArrayLike) -> float:
    """Share of groups in which every trajectory earned the same: they carry no outcome signal."""
    _, deviations, sizes = group_statistics(rewards_N, groups_N)
    return float(np.sum((deviations <= 1e-12) / sizes) / np.sum(1 / sizes)) if len(sizes) else 0.0
