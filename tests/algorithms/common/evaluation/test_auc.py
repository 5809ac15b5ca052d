"""AUC against its definition, pair by pair, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.evaluation.auc import auc, auc_interval


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_it_is_the_share_of_pairs_in_which_the_positive_is_higher(rows: list[tuple[int, bool]]) -> None:
    values, positive = np.array([v for v, _ in rows], dtype=float), np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        return
    pairs = [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        for ours in values[positive]
        for theirs in values[~positive]
    ]
    assert auc(values, positive) == pytest.approx(sum(pairs) / len(pairs))


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    """Normal values one standard deviation apart, whose AUC is known."""
    true = 0.5 * (1 + math.erf(1 / 2))  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        positive = np.arange(80) % 2 == 0
        values = rng.normal(positive.astype(float), 1.0)
        low, high = auc_interval(values, positive, np.arange(80), resamples=200)
        covered += low <= true <= high
    assert 85 <= covered <= 100


def test_values_of_one_cluster_count_once() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(40) % 2 == 0
    values = rng.normal(positive.astype(float), 1.0)
    single = auc_interval(values, positive, np.arange(40))
    # Every value four times: the same information, unless the copies are taken for independent ones.
    four = (np.repeat(values, 4), np.repeat(positive, 4))
    clustered = auc_interval(*four, np.repeat(np.arange(40), 4))
    independent = auc_interval(*four, np.arange(160))
    assert clustered[1] - clustered[0] == pytest.approx(single[1] - single[0], rel=0.15)
    assert independent[1] - independent[0] < 0.7 * (single[1] - single[0])


def test_no_interval_without_both_kinds() -> None:
    assert all(np.isnan(auc_interval(np.arange(3.0), np.ones(3, dtype=bool), np.arange(3))))
