"""The tables of every algorithm on one buffer for the terminal: turn by turn, by algorithm, of the information gain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from algorithms.comparison.advantages import signs
from algorithms.comparison.registry import ALGORITHMS

COLUMNS = 9  # algorithms beside each other in a table; the others follow in tables below it


def print_report(console: Console, report: dict[str, Any], show: int) -> None:
    """Print the whole report; turn by turn for the first `show` groups."""
    for group, question in enumerate(report["questions"][:show]):
        print_group(console, question, [row for row in report["turns"] if row["group"] == group])
    if show > 0:
        *others, last = (entry.label for entry in ALGORITHMS.values() if entry.whitened)
        whitened = f"{', '.join(others)} and {last}, which whiten, are not counted"
        console.print(f"* One algorithm rewards it, another punishes it ({whitened}).")
    print_algorithms(console, report["algorithms"])
    for note in report["notes"]:
        console.print(f"note: {note}")
    print_gains(console, report["information_gain"])
    for kind, alone in report["anchors_alone"].items():
        shares = f"{alone['all']:.1%} of turns, {shown(alone['later'], '.1%')} of those after the first"
        console.print(f"GiGPO, {kind} anchors: no match for {shares}")
    groups = report["groups"]
    shares = f"all fail {groups['all_fail']:.1%}, all succeed {groups['all_succeed']:.1%}"
    console.print(f"groups with equal outcomes: {groups['all_equal']:.1%} of {groups['count']} ({shares})")


def print_group(console: Console, question: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """A group, one line for each turn, in a table for every `COLUMNS` algorithms; disputed turns are bold, starred."""
    title = f"{question[0]} ({' | '.join(question[1:])})"
    names = list(rows[0]["advantage"])
    for start in range(0, len(names), COLUMNS):
        beside = names[start : start + COLUMNS]
        table = make_table(escape(title), "", "written", "outcome", "IG", *(ALGORITHMS[name].label for name in beside))
        table.columns[1].justify, table.columns[1].max_width = "left", 34
        for row, following in zip_longest(rows, rows[1:]):
            last = following is None or following["turn"] == 0
            table.add_row(
                f"{row['episode'] + 1}.{row['turn'] + 1}{' *' if row['disputed'] else ''}",
                escape(row["written"]),
                f"{row['outcome']:.2f}" if last else "",
                shown(row["gain"]["random"], "+.2f", ""),
                *(coloured(row["advantage"][name]) for name in beside),
                style="bold" if row["disputed"] else None,
                end_section=last,
            )
        console.print(table)


def print_algorithms(console: Console, algorithms: dict[str, dict[str, Any]]) -> None:
    """A row for each algorithm, then a warning for each that equals another one."""
    heads = ("tokens at 0", "groups at 0", "mean |A|", "sign not GRPO's", "opposite sign", "correlation with GRPO")
    table = make_table("algorithms", "", *heads)
    for name, row in algorithms.items():
        shares = [f"{row[key]:.1%}" for key in ("zero_tokens", "zero_groups", "sign_differs", "sign_opposite")]
        table.add_row(name, *shares[:2], f"{row['mean_abs']:.3f}", *shares[2:], shown(row["correlation"], ".3f"))
    console.print(table)
    for name, row in algorithms.items():
        alike = [f"{row['like_grpo']} to grpo"] if row["like_grpo"] else []
        alike += [f"equal to {other}" for other in row["same_as"] if other != "grpo"]
        if alike:
            why = f" ({row['why']})" if row["why"] else ""
            console.print(f"[yellow]warning: {name} is {', '.join(alike)}{why}[/yellow]")


def print_gains(console: Console, statistics: dict[str, Any]) -> None:
    """Information gain over either baseline."""
    keys = ("mean", "variance", "min", "max", "positive", "dead_zone")
    table = make_table("information gain, nats", "over", "search", "count", *keys)
    for baseline, found in statistics.items():
        for which, row in found["searches"].items():
            values = [shown(row.get(key), ".1%" if key in ("positive", "dead_zone") else ".3f") for key in keys]
            table.add_row(baseline, which, str(row["count"]), *values)
    console.print(table)
    for baseline, found in statistics.items():
        parts = [f"{name.replace('_', ' ')} {shown(r, '.3f')}" for name, r in found["correlation_with_outcome"].items()]
        console.print(f"correlation of an episode's gain over {baseline} with its outcome: {', '.join(parts)}")


def make_table(title: str, first: str, *heads: str) -> Table:
    """A table whose columns, except the first, are right-aligned."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head.replace("_", " "), justify="right", no_wrap=True)
    return table


def coloured(advantage: float) -> str:
    """An advantage in the colour of its sign."""
    sign = int(signs(advantage))
    return f"[{'green' if sign > 0 else 'red'}]{advantage:+.3f}[/]" if sign else "[dim]0[/dim]"


def shown(value: float | None, form: str, missing: str = "-") -> str:
    """A number in a format."""
    return missing if value is None else format(value, form)
