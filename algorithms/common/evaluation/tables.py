"""The table of an evaluation for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from algorithms.common.evaluation.scores import MacroAverage, Score
from igsearch_env.question_sets import BENCHMARKS

HEADS = ("data set", "n", "before", "EM", "95% CI", "F1", "searches", "found", "EM if found", "failed")


def print_scores(
    console: Console,
    title: str,
    before: Mapping[str, Score] | None,
    after: Mapping[str, Score],
    averages: Mapping[str, MacroAverage] | None = None,
) -> None:
    """A row for each data set, with the 95% interval of EM (Wilson's), then the macro-averages.

    Args:
        before: scores of an earlier evaluation, whose EM is shown in a separate column.
        averages: macro-averages by name. With them the table also shows the size of a published benchmark, the share of
            questions whose answer was found, EM on these, and the number of failed retrievals; without, it has one
            macro-average and, in the bundled world, fits 80 columns.
    """
    first = before or {}
    if averages is None:
        rows = [_row(name, f"{s.n:,}", s, 2, before=first.get(name)) for name, s in after.items()]
        n = f"{sum(s.n for s in after.values()):,}"
        earlier = MacroAverage.of(before) if before else None
        means = [_row("macro-average", n, MacroAverage.of(after), 2, before=earlier)]
    else:
        rows = [
            _row(name, _count(name, s), s, 3, first.get(name), _found(s), str(s.failed or ""))
            for name, s in after.items()
        ]
        means = [
            _row(f"macro-average, {name}", f"sets: {len(a.datasets)}", a, 3, found=_found(a))
            for name, a in averages.items()
        ]
    table = Table(title=escape(title))
    shown = [place for place in range(len(HEADS)) if any(row[place] for row in rows)]
    for place in shown:
        table.add_column(HEADS[place], justify="right" if place else "left", no_wrap=True)
    for part in (rows, means):
        for row in part:
            table.add_row(*(row[place] for place in shown))
        table.add_section()
    console.print(table)


def _row(
    name: str,
    n: str,
    means: Score | MacroAverage,
    digits: int,
    before: Score | MacroAverage | None = None,
    found: Sequence[str] = ("", ""),
    failed: str = "",
) -> list[str]:
    low, high = means.em_ci95
    interval = "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"
    was = "" if before is None else f"{before.em:.3f}"
    searches = "" if math.isnan(means.searches) else f"{means.searches:.2f}"
    return [escape(name), n, was, f"{means.em:.3f}", interval, f"{means.f1:.3f}", searches, *found, failed]


def _found(means: Score | MacroAverage) -> list[str]:
    return ["" if math.isnan(mean) else f"{mean:.3f}" for mean in (means.answer_found, means.em_found)]


def _count(name: str, score: Score) -> str:
    known = BENCHMARKS.get(name)
    return f"{score.n:,}" if known is None or known.size == score.n else f"{score.n:,} of {known.size:,}"
