"""Charts over training steps: their data, their HTML, and the script that draws them (uPlot, vendored).

A chart is a figure with a title, a canvas, a legend that shows the values at the pointer, and a text summary and a
table of the same data. Lines differ in dashes as well as in colour.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from algorithms.common.report.page import data

DIGITS = 5  # significant digits of a value in a page
ROUNDING = 5e-7  # a line whose values are all closer to 0 is named below its chart and not drawn

Values = Sequence[float | None]
Cell = str | tuple[str, str]
"""A cell of a table: a text, or a text and a smaller one, such as a value and its interval."""


@dataclass(frozen=True)
class Line:
    """One line of a chart: one value per step, None if there is no value."""

    label: str
    values: Values
    style: int = 0
    """Number of the colour and dashes; lines with the same style are toggled together."""
    faint: bool = False
    """Thin and not in the legend: the values before smoothing."""
    sparse: bool = False
    """Points, connected across steps without a value."""


@dataclass(frozen=True)
class Chart:
    """Lines over common steps. `unit` is the label of the y axis."""

    title: str
    unit: str
    steps: Sequence[int]
    lines: Sequence[Line]
    bands: Sequence[tuple[int, int]] = ()
    """Pairs of line indices (lower, upper): the area between them is filled."""
    stack: bool = False
    """Whether the lines are parts of a whole, stacked on each other."""
    range: tuple[float, float] | None = None
    """Range of the y axis; by default it includes all values and 0."""
    least: float = 0.0
    """Least range of the y axis, so that small noise around 0 does not fill the chart."""


def number(value: Any) -> float | None:
    """A finite number with `DIGITS` significant digits; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    """One metric of each row, None where it is missing or not finite."""
    return [number(row.get(key)) for row in rows]


def smooth(values: Values, width: int) -> list[float | None]:
    """Moving average: mean of each value and the `width` - 1 before it, skipping None; None if all are None."""
    if not values:
        return []
    there = np.array([value is not None for value in values], dtype=np.float64)
    filled = np.array([value or 0.0 for value in values])
    sums, counts = (np.convolve(array, np.ones(width))[: len(values)] for array in (filled, there))
    return [number(float(total / count)) if count else None for total, count in zip(sums, counts, strict=True)]


def width_for(steps: int) -> int:
    """Number of steps that a smoothed line averages: a fiftieth of the run, at least 5."""
    return max(5, steps // 50)


def summary(chart: Chart) -> str:
    """Text summary of the chart: first, last, minimum and maximum value of each line."""
    return " ".join(sentence for line in chart.lines if not line.faint for sentence in _sentence(chart.steps, line))


def _sentence(steps: Sequence[int], line: Line) -> Iterator[str]:
    points = [(value, step) for step, value in zip(steps, line.values, strict=True) if value is not None]
    if not points:
        return
    if len(points) == 1:
        yield f"{line.label}: {points[0][0]:.4g} at step {points[0][1]}."
        return
    named = {"first": points[0], "last": points[-1], "minimum": min(points), "maximum": max(points)}
    yield f"{line.label}: " + ", ".join(f"{k} {value:.4g} (step {step})" for k, (value, step) in named.items()) + "."


def chart_html(chart: Chart) -> str:
    """The chart as a figure with its data; empty if no line has a value."""
    if not any(value is not None for line in chart.lines for value in line.values):
        return ""
    name = f"chart-{_slug(chart.title)}"
    title = html.escape(chart.title)
    zero = [all(abs(value or 0.0) < ROUNDING for value in line.values) for line in chart.lines]
    absent = [html.escape(line.label) for line, none in zip(chart.lines, zero, strict=True) if none and not line.faint]
    reason = "Not drawn, because always 0 (to six decimals)"
    note = f'<p class="quiet zero">{reason}: {", ".join(absent)}</p>\n' if absent else ""
    plot = (
        f'<p class="at"></p>\n<div class="plot" role="img" aria-labelledby="{name}" aria-describedby="{name}-words">'
        '</div>\n<div class="legend-place"></div>\n'
    )
    content = {
        "title": chart.title,
        "unit": chart.unit,
        "steps": list(chart.steps),
        "lines": [
            {**vars(line), "values": list(line.values), "zero": none}
            for line, none in zip(chart.lines, zero, strict=True)
        ],
        "bands": [list(pair) for pair in chart.bands],
        "stack": chart.stack,
        "range": chart.range,
        "least": chart.least,
    }
    return (
        f'<figure class="chart" data-chart="{name}-data">\n<figcaption><h3 id="{name}">{title}</h3></figcaption>\n'
        f'{"" if all(zero) else plot}{note}<details id="{name}-numbers"><summary>Values: {title}</summary>'
        f'<p id="{name}-words">{html.escape(summary(chart))}</p></details>\n{data(f"{name}-data", content)}\n</figure>'
    )


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def charts_html(charts: Sequence[Chart]) -> str:
    """The charts that have a value, side by side if there is room; those without a line to draw come last."""
    drawn = sorted((text for text in map(chart_html, charts) if text), key=lambda text: 'class="plot"' not in text)
    return '<div class="charts">\n' + "\n".join(drawn) + "\n</div>" if drawn else ""


def css() -> str:
    """Style sheet of the charts."""
    return _file("vendor/uPlot.min.css") + "\n" + _file("charts.css")


def js() -> str:
    """Script that draws the charts of a page, with the licence of the library."""
    licence = _file("vendor/uPlot.LICENSE.txt")
    return f"/* uPlot\n{licence}*/\n{_file('vendor/uPlot.iife.min.js')}\n{_file('charts.js')}"


def _file(name: str) -> str:
    return files("algorithms.common.report").joinpath(name).read_text(encoding="utf-8")


def table_html(title: str, head: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, text: bool = False) -> str:
    """A table that scrolls horizontally if it is too wide. Every cell is escaped.

    `text`: its cells are texts, so they are aligned on the left and wrap.
    """
    cells = "".join(f'<th scope="col">{_cell(name, text)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row"><span>{_cell(row[0], True)}</span></th>'
        + "".join(f"<td>{_cell(cell, text)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    kind = "wide text" if text else "wide"
    return (
        f'<div class="{kind}" id="{_slug(title)}-table" tabindex="0" role="region" aria-label="{html.escape(title)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _cell(cell: Cell, breakable: bool) -> str:
    """The cell; a `breakable` one can be broken after the punctuation in a name."""
    value, note = (cell, "") if isinstance(cell, str) else cell
    name = html.escape(value)
    if breakable:
        name = re.sub(r"(?<=\w)[_./-](?=[^\W\d])", r"\g<0><wbr>", name)
    return name + (f" <small>{html.escape(note)}</small>" if note else "")
