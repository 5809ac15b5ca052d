"""AUC: how well a value separates two kinds of things, and its uncertainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from algorithms.common.evaluation.clustered import resampled_weights
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
    order = np.argsort(values, kind="stable")
    ordered, signs = values[order], positive[order]
    # Between the negatives below a value and those that are not above it, half of the ties are counted.
    first, last = np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right")
    found = []
    for weights in resampled_weights(clusters[order], resamples, rng):
        negatives = np.cumsum(np.where(signs, 0, weights), axis=1, dtype=np.float64)
        negatives = np.concatenate([np.zeros((len(weights), 1)), negatives], axis=1)
        below = (negatives[:, first] + negatives[:, last]) / 2
        positives = np.where(signs, weights, 0)
        pairs = positives.sum(axis=1) * negatives[:, -1]
        found.append(((positives * below).sum(axis=1)[pairs > 0]) / pairs[pairs > 0])
    areas = np.concatenate(found)
    if not len(areas):
        return float("nan"), float("nan")
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)
