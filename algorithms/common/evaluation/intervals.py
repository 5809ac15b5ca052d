"""Uncertainty of means: bootstrap intervals, paired differences over seeds and questions, McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrievers.random_streams import random_stream
from retrievers.reading import import_optional

Float64s = NDArray[np.float64]

MAX_DRAWS = 2**20  # held in memory at once: 2,000 resamples of 14,267 questions would take 0.5 GB


def bootstrap_ci95(*samples: Sequence[float], resamples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval of a mean; for several samples, of the mean of their means.

    Each sample is resampled separately, so a macro-average's interval treats its data sets as fixed.
    """
    rng = random_stream("bootstrap of a mean", seed)
    means = np.zeros(resamples)
    for values in samples:
        array = np.asarray(values, dtype=np.float64)
        block = max(1, MAX_DRAWS // len(array))
        counts = [min(block, resamples - done) for done in range(0, resamples, block)]
        drawn = (array[rng.integers(0, len(array), (count, len(array)))] for count in counts)
        means += np.concatenate([values.mean(axis=1) for values in drawn])
    low, high = np.percentile(means / len(samples), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """Mean difference of two runs or sets of runs, with two 95% intervals; `t` is None for a single seed."""

    mean: float
    bootstrap: tuple[float, float]
    t: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether every interval excludes 0."""
        intervals = [self.bootstrap] if self.t is None else [self.bootstrap, self.t]
        return all(low > 0 or high < 0 for low, high in intervals)


def paired_difference(
    ours: Mapping[str, Float64s], theirs: Mapping[str, Float64s], *, resamples: int = 2_000, seed: int = 0
) -> Difference:
    """Macro-averaged difference of values [seeds, questions] by data set, paired by seed and question.

    `bootstrap`: percentiles over seeds, and questions within each data set, resampled with replacement (the same draws
    on both sides). It is too narrow for a few seeds; `t` is Student's interval over the seeds' differences, which shows
    whether other seeds would agree on the same questions.
    """
    differences = [np.asarray(ours[name], np.float64) - np.asarray(theirs[name], np.float64) for name in ours]
    seeds = len(differences[0])
    rng = random_stream("bootstrap of a difference", seed)
    drawn = rng.integers(0, seeds, (resamples, seeds))
    means = np.zeros(resamples)
    for values in differences:
        count = values.shape[1]
        means += [values[np.ix_(chosen, rng.integers(0, count, count))].mean() for chosen in drawn]
    low, high = np.percentile(means / len(differences), [2.5, 97.5])
    by_seed = np.mean([values.mean(axis=1) for values in differences], axis=0)
    mean = float(by_seed.mean())
    if seeds == 1:
        return Difference(mean, (float(low), float(high)), None)
    stats = import_optional("scipy.stats", "train", "an interval over seeds")
    half = float(stats.t.ppf(0.975, seeds - 1)) * float(by_seed.std(ddof=1)) / math.sqrt(seeds)
    return Difference(mean, (float(low), float(high)), (mean - half, mean + half))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test on changed pairs: `gained` against `lost`, equally likely under H0.

    The bootstrap of a few questions does not show this: five gained and none lost have p = 0.06.
    """
    pairs = gained + lost
    term = tail = 1  # C(pairs, 0), and the sum up to C(pairs, min)
    for k in range(min(gained, lost)):
        term = term * (pairs - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << pairs))


def verdict(found: Difference) -> str:
    """better or worse only if every interval excludes 0 and there is more than one seed."""
    if found.t is None:
        return "one seed: no verdict"
    if not found.clear:
        return "inside the noise"
    return "better" if found.mean > 0 else "worse"
