"""Resampling of values that depend on each other within clusters, such as the searches of one question."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from retrievers.random_streams import random_stream

MAX_WEIGHTS = 2**20  # held in memory at once

Float64s = NDArray[np.float64]


def resampled_weights(
    clusters: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """How often each value occurs in bootstrap samples of whole clusters, in blocks [resamples of the block, values].

    `clusters`: number of the cluster of each value, from 0.
    """
    count = int(clusters.max()) + 1
    block = max(1, MAX_WEIGHTS // max(len(clusters), count))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)[:, clusters]


def clustered_mean_ci95(
    values: Float64s, clusters: NDArray[np.int64], *, resamples: int = 1_000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval of a mean over values whose clusters are independent of each other.

    It is too narrow for fewer than about ten clusters.
    """
    rng = random_stream("bootstrap of a mean over clusters", seed)
    means = [weights @ values / weights.sum(axis=1) for weights in resampled_weights(clusters, resamples, rng)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
