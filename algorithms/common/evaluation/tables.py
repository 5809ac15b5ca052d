"""Tables of evaluations for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from algorithms.common.evaluation.scores import Score, macro_average


def print_scores(console: Console, title: str, before: dict[str, Score] | None, after: dict[str, Score]) -> None:
    """A table of EM by data set, with 95% intervals over questions."""
    table = Table(title=title)
    table.add_column("data set", no_wrap=True)
    for name in ("n", *(("before",) if before else ()), "EM", "95% CI", "F1", "searches"):
        table.add_column(name, justify="right", no_wrap=True)
    for dataset, s in after.items():
        was = (f"{before[dataset].em:.3f}" if dataset in before else "",) if before else ()
        interval = f"{s.em_ci95[0]:.2f} to {s.em_ci95[1]:.2f}"
        table.add_row(dataset, str(s.n), *was, f"{s.em:.3f}", interval, f"{s.f1:.3f}", f"{s.searches:.2f}")
    mean_before = (f"{macro_average(before):.3f}",) if before else ()
    n = str(sum(s.n for s in after.values()))
    f1 = sum(s.f1 for s in after.values()) / len(after)
    searches = sum(s.searches for s in after.values()) / len(after)
    table.add_section()
    table.add_row("macro-average", n, *mean_before, f"{macro_average(after):.3f}", "", f"{f1:.3f}", f"{searches:.2f}")
    console.print(table)
