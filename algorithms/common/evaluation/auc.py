"""AUC: how well a value separates two kinds of things, and its uncertainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrievers.random_streams import random_stream

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def auc(values: Floats, positive: Flags) -> float:
    """Probability that the positive of a random pair has the higher value; a tie counts one half."""
    ordered = np.sort(values[~positive])
    below = np.searchsorted(ordered, values[positive], "left") + np.searchsorted(ordered, values[positive], "right")
    return float(below.mean() / (2 * len(ordered)))


def auc_interval(
    values: Floats, positive: Flags, clusters: NDArray[np.int64], *, resamples: int = 1_000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval of the AUC.

    Values of one cluster (such as the searches of a question) depend on each other, so whole clusters are resampled.
    Draws without a positive or without a negative value are left out.
    """
    rng = random_stream("bootstrap of an AUC", seed)
    order = np.argsort(clusters, kind="stable")
    counts = np.bincount(clusters)
    firsts = np.cumsum(counts) - counts
    found = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(counts), len(counts))
        picked = np.concatenate([order[firsts[c] : firsts[c] + counts[c]] for c in drawn])
        if 0 < positive[picked].sum() < len(picked):
            found.append(auc(values[picked], positive[picked]))
    if not found:
        return float("nan"), float("nan")
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
