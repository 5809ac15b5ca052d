"""Curves of several runs in common charts: the mean over seeds of each group, and its single runs as faint lines."""

from __future__ import annotations

from collections.abc import Sequence

from algorithms.common.report.charts import Chart, Line, Values, number, smooth, width_for
from algorithms.common.report.comparable import SeedGroup
from algorithms.common.report.run_charts import HACKING, SHARES, at_steps

CURVES = (  # metric, title, unit
    ("reward", "Training reward", "mean over questions"),
    ("searches", "Searches", "searches per trajectory"),
    ("information_gain/mean", "Information gain", "nats per search"),
    ("policy/entropy", "Entropy", "nats per token"),
    *((f"searches/{kind}", f"Reward hacking: {label}", "share of searches") for kind, label in HACKING.items()),
    ("all_fail", "All-fail groups", "share of groups"),
    ("time/step", "Step time", "seconds"),
)


def comparison_charts(entries: Sequence[SeedGroup]) -> list[Chart]:
    """The charts that have at least one line."""
    charts = [_evaluations(entries), *(_curve(entries, *curve) for curve in CURVES)]
    return [chart for chart in charts if chart.lines]


def _evaluations(entries: Sequence[SeedGroup]) -> Chart:
    """EM on dev questions, or on test questions if no run has dev evaluations."""
    dev = any(run.dev for entry in entries for run in entry.runs)
    key = "dev/em" if dev else "test/em"
    found = [[(run.dev if dev else run.test) for run in entry.runs] for entry in entries]
    steps = sorted({row["step"] for group in found for rows in group for row in rows})
    lines: list[Line] = []
    for style, (entry, group) in enumerate(zip(entries, found, strict=True)):
        columns = [at_steps(rows, key, steps) for rows in group]
        if len(columns) > 1:
            lines += [
                Line(f"{entry.label}, seed {run.seed}", values, style, faint=True, sparse=True)
                for run, values in zip(entry.runs, columns, strict=True)
            ]
        lines.append(Line(entry.label, _mean(columns), style, sparse=True))
    title = "Exact match, dev questions" if dev else "Exact match, test questions"
    return Chart(title, "EM, macro-average", steps, _present(lines), range=SHARES)


def _curve(entries: Sequence[SeedGroup], key: str, title: str, unit: str) -> Chart:
    steps = sorted({row["step"] for entry in entries for run in entry.runs for row in run.training})
    width = width_for(len(steps))
    faint, bold = [], []
    for style, entry in enumerate(entries):
        columns = [at_steps(run.training, key, steps) for run in entry.runs]
        for run, values in zip(entry.runs, columns, strict=True):
            shown_values = values if len(columns) == 1 else _smooth(values, width)
            name = f"{entry.label}, each step" if len(columns) == 1 else f"{entry.label}, seed {run.seed}"
            faint.append(Line(name, shown_values, style, faint=True))
        bold.append(Line(entry.label, _smooth(_mean(columns), width), style))
    return Chart(title, unit, steps, _present([*faint, *bold]))


def _smooth(values: Values, width: int) -> list[float | None]:
    """The moving average up to the last value, so that the line of a shorter run ends with the run."""
    last = max((place for place, value in enumerate(values) if value is not None), default=-1)
    return smooth(values[: last + 1], width) + [None] * (len(values) - last - 1)


def _mean(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the runs, at the steps that all of them have."""
    result: list[float | None] = []
    for values in zip(*columns, strict=True):
        found = [value for value in values if value is not None]
        result.append(number(sum(found) / len(found)) if len(found) == len(values) else None)
    return result


def _present(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if any(value is not None for value in line.values)]
