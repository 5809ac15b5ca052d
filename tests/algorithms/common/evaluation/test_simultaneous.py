"""Simultaneous intervals: known values, properties, and the coverage of a whole table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from algorithms.common.evaluation.simultaneous import critical_value, simultaneous_differences, variances_of_mean

Floats = NDArray[np.float64]


def test_the_variance_is_that_of_a_balanced_random_effects_model() -> None:
    """Expected mean squares of a two-way layout, worked out with Python's own numbers."""
    values = [[1.0, 0.0, 2.0, 5.0], [2.0, 2.0, 3.0, 9.0], [0.0, 1.0, 4.0, 4.0]]
    seeds, questions = 3, 4
    grand = sum(map(sum, values)) / 12
    rows = [sum(row) / questions for row in values]
    columns = [sum(row[q] for row in values) / seeds for q in range(questions)]
    ms_seed = questions * sum((r - grand) ** 2 for r in rows) / (seeds - 1)
    ms_question = seeds * sum((c - grand) ** 2 for c in columns) / (questions - 1)
    ms_rest = sum(
        (values[s][q] - rows[s] - columns[q] + grand) ** 2 for s in range(seeds) for q in range(questions)
    ) / ((seeds - 1) * (questions - 1))
    assert ms_question > ms_rest
    expected = (ms_seed + ms_question - ms_rest) / (seeds * questions)
    assert sum(variances_of_mean({"a": np.array(values)})) == pytest.approx(expected)
    twice = {"a": np.array(values), "b": np.array(values)}  # seeds shared by both, questions not
    expected = (ms_seed + (ms_question - ms_rest) / 2) / (seeds * questions)
    assert sum(variances_of_mean(twice)) == pytest.approx(expected)


def test_without_effects_of_questions_the_interval_alone_is_that_of_scipys_paired_t_test() -> None:
    by_seed = np.array([0.3, -0.1, 0.2, 0.25, 0.0])
    (found,) = simultaneous_differences([{"a": np.repeat(by_seed[:, None], 6, axis=1)}], [range(5)])
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert found.alone == pytest.approx((expected.low, expected.high))
    assert found.simultaneous == found.alone  # one comparison needs no correction


def test_of_seeds_that_agree_the_interval_is_the_normal_one_over_questions() -> None:
    questions = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    (found,) = simultaneous_differences([{"a": np.array([questions, questions])}], [range(2)])
    half = 1.959964 * questions.std(ddof=1) / 8**0.5
    assert found.alone == pytest.approx((questions.mean() - half, questions.mean() + half))


@pytest.mark.parametrize(("seeds", "comparisons"), [(10, 8), (5, 3)])
def test_the_critical_value_of_independent_and_of_equal_comparisons(seeds: int, comparisons: int) -> None:
    sidak = stats.t.ppf((1 + 0.95 ** (1 / comparisons)) / 2, seeds - 1)
    assert critical_value(np.eye(comparisons), seeds) == pytest.approx(sidak, rel=0.03)
    same = np.ones((comparisons, comparisons))
    assert critical_value(same, seeds) == pytest.approx(stats.t.ppf(0.975, seeds - 1), rel=0.03)
    sidak = stats.norm.ppf((1 + 0.95 ** (1 / comparisons)) / 2)
    assert critical_value(np.eye(comparisons), None) == pytest.approx(sidak, rel=0.02)


@settings(max_examples=12)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 1000))
def test_the_corrected_interval_holds_the_other_and_turns_with_the_sides(seeds: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [{"a": rng.normal(0.1, 1, (seeds, 9)), "b": rng.normal(0, 1, (seeds, 4))} for _ in range(count)]
    for place, found in enumerate(simultaneous_differences(values, [range(seeds)] * count)):
        assert found.alone is not None
        assert found.simultaneous is not None
        bonferroni = stats.t.ppf(1 - 0.025 / count, seeds - 1) * sum(variances_of_mean(values[place])) ** 0.5
        assert found.simultaneous[0] < found.alone[0] < found.mean < found.alone[1] < found.simultaneous[1]
        assert found.simultaneous[1] - found.mean < bonferroni * 1.05
    turned = [{name: -v for name, v in found.items()} for found in values]
    for ours, theirs in zip(
        *(simultaneous_differences(v, [range(seeds)] * count) for v in (values, turned)), strict=True
    ):
        assert ours.simultaneous is not None
        assert theirs.simultaneous == pytest.approx((-ours.simultaneous[1], -ours.simultaneous[0]))


def test_a_single_seed_has_no_interval_and_no_verdict() -> None:
    one, two = {"a": np.ones((1, 3))}, {"a": np.array([[1.0, 1.0], [1.0, 1.0]])}
    alone, found = simultaneous_differences([one, two], [[4], [4, 5]])
    assert (alone.simultaneous, alone.verdict) == (None, "one seed: no verdict")
    assert (found.simultaneous, found.verdict) == ((1.0, 1.0), "better")
    (nothing,) = simultaneous_differences([{"a": np.zeros((3, 4))}], [range(3)])
    assert nothing.verdict == "inside the noise"


def test_a_difference_that_is_clear_alone_may_be_inside_the_noise_among_many() -> None:
    rng = np.random.default_rng(1)
    values = [{"a": rng.normal(0, 0.1, (10, 1)).repeat(5, axis=1)} for _ in range(8)]
    by_seed = values[0]["a"][:, 0]
    values[0]["a"] += 2.6 * by_seed.std(ddof=1) / 10**0.5 - by_seed.mean()  # between 2.26 and about 3.2 standard errors
    first = simultaneous_differences(values, [range(10)] * 8)[0]
    assert first.alone is not None
    assert first.alone[0] > 0
    assert first.verdict == "inside the noise"
    values[0]["a"] += 0.1
    assert simultaneous_differences(values, [range(10)] * 8)[0].verdict == "better"


def family_of_equals(rng: np.random.Generator, spread: float, hard: float) -> Floats:
    """Exact matches [methods, seeds, questions] of nine methods that are equally good, ten seeds, 7 x 10 questions.

    Seeds are skewed: a method's run gets better by chance, by an exponential with the standard deviation `spread`;
    `hard`: the standard deviation by which questions suit one method more than another.
    """
    question = np.repeat(rng.normal(0, 2, 7), 10) + rng.normal(0, 1, 70)
    run = spread * (rng.exponential(1, (9, 10, 1)) - 1) + rng.normal(0, 0.2, (1, 10, 1))
    logit = question + run + rng.normal(0, hard, (9, 1, 70)) + rng.normal(0, 0.8, (9, 10, 70))
    return (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.float64)


@pytest.mark.parametrize(("spread", "hard"), [(0.3, 0.5), (0.06, 1.5)])
def test_all_intervals_of_a_table_hold_together(spread: float, hard: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seeds, eight comparisons with one baseline: coverage of the family; uncorrected it is about 0.75."""
    monkeypatch.setattr("algorithms.common.evaluation.simultaneous.DRAWS", 1_000)
    trials, together, alone = 200, 0, 0
    for trial in range(trials):
        runs = family_of_equals(np.random.default_rng(trial), spread, hard).reshape(9, 10, 7, 10)
        values = [{str(f): (ours - runs[0])[:, f] for f in range(7)} for ours in runs[1:]]
        found = simultaneous_differences(values, [range(10)] * 8)
        together += all(one.simultaneous[0] <= 0 <= one.simultaneous[1] for one in found if one.simultaneous)
        alone += all(one.alone[0] <= 0 <= one.alone[1] for one in found if one.alone)
    assert together / trials >= 0.94
    assert alone / trials < 0.9
