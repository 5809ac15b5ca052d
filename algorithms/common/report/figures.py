"""Statistics of result files for reports: EM with its interval, and differences paired by question and seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from algorithms.common.evaluation.intervals import Difference, Float64s, paired_difference
from algorithms.common.evaluation.results import Result
from algorithms.common.evaluation.scores import MacroAverage, QuestionResult, Score
from algorithms.common.report.charts import Cell

Questions = dict[str, list[str]]
"""Ids by data set."""
Em = tuple[float, tuple[float, float]]
"""A mean and its 95% interval over questions."""


def scored(result: Result) -> dict[str, dict[str, QuestionResult]]:
    """The questions whose retrieval worked, by data set and id."""
    return {name: {row.id: row for row in rows if not row.failed} for name, rows in result.rows.items()}


def macro_em(result: Result) -> Em | None:
    """EM macro-averaged over the data sets; None if there is no question."""
    scores = {name: score for name, score in result.scores.items() if score.n}
    if not scores:
        return None
    average = MacroAverage.of(scores)
    return average.em, average.em_ci95


def common(results: Sequence[Result]) -> Questions:
    """The questions that every result has scored, with equal text and golden answers, by data set with one."""
    first, *others = map(scored, results)
    kept = {
        name: [i for i, row in rows.items() if all(_same(row, other.get(name, {}).get(i)) for other in others)]
        for name, rows in first.items()
    }
    return {name: ids for name, ids in kept.items() if ids}


def _same(row: QuestionResult, other: QuestionResult | None) -> bool:
    return other is not None and (row.question, row.golden_answers) == (other.question, other.golden_answers)


def exact_matches(
    ours: Sequence[Result], theirs: Sequence[Result], names: Collection[str] | None = None
) -> tuple[dict[str, Float64s], dict[str, Float64s]]:
    """EM [runs, questions] of both on their common questions, by data set of `names` (default: all) that has one.

    Results are paired by position, one per seed.
    """
    questions = {name: ids for name, ids in common([*ours, *theirs]).items() if names is None or name in names}
    left, right = ([scored(result) for result in side] for side in (ours, theirs))
    return (
        {name: np.array([[r[name][i].em for i in ids] for r in left]) for name, ids in questions.items()},
        {name: np.array([[r[name][i].em for i in ids] for r in right]) for name, ids in questions.items()},
    )


def difference(
    ours: Sequence[Result], theirs: Sequence[Result], names: Collection[str] | None = None
) -> Difference | None:
    """EM of `ours` minus `theirs`, macro-averaged over the data sets, on common questions; None if there is none."""
    sides = exact_matches(ours, theirs, names)
    return paired_difference(*sides) if sides[0] else None


def shown(interval: tuple[float, float], form: str = ".3f") -> str:
    """An interval, formatted for a table."""
    return f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def em_of(score: Score | None) -> Em | None:
    """EM of a data set; None if it has no scored question."""
    return (score.em, score.em_ci95) if score is not None and score.n else None


def shown_em(em: Em | None) -> Cell:
    """EM and its interval, for a table."""
    return "" if em is None else (f"{em[0]:.3f}", shown(em[1]))


def shown_difference(found: Difference | None, note: str = "") -> Cell:
    """A difference and its bootstrap interval over questions (and seeds) with a `note`, for a table.

    Resampling differences that are all equal gives a point, which is no interval.
    """
    if found is None:
        return "no common questions"
    low, high = found.bootstrap
    return f"{found.mean:+.3f}", ("[all equal]" if low == high else shown(found.bootstrap, "+.3f")) + note
