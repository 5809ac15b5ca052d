"""Uncertainty of EM: Wilson intervals of shares, paired differences over seeds and questions, McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrievers.random_streams import random_stream
from retrievers.reading import import_optional

Float64s = NDArray[np.float64]

Z95 = 1.959963984540054  # the 97.5th percentile of the standard normal distribution


def wilson_ci95(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share of `n` questions; NaN if there is none.

    Unlike a bootstrap interval it is no point where all or none are correct: 0 of 20 has 0 to 0.161. Source: Wilson,
    Probable Inference, the Law of Succession, and Statistical Inference (JASA, 1927).
    """
    if not n:
        return math.nan, math.nan
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / n + (Z95 / (2 * n)) ** 2) / scale
    # Exact at the ends, where rounding would leave 1e-18.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def mean_of_shares_ci95(shares: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """95% interval of the unweighted mean of independent shares, given as (share, questions); of one, Wilson's.

    Each limit is as far from the mean as the root of the summed squares of the distances of the Wilson limits, divided
    by the number of shares. Data sets are treated as fixed. Source: Zou, Huang and Zhang, A note on confidence interval
    estimation for a linear function of binomial proportions (Computational Statistics & Data Analysis, 2009).
    """
    limits = [(share, *wilson_ci95(share, n)) for share, n in shares]
    mean = sum(share for share, _ in shares) / len(shares)
    below = math.hypot(*(share - low for share, low, _ in limits)) / len(shares)
    above = math.hypot(*(high - share for share, _, high in limits)) / len(shares)
    return mean - below, mean + above


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
