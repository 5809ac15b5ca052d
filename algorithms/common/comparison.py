"""Reports on several runs: tables with paired intervals, learning curves with bands; Markdown, HTML and PNG."""

from __future__ import annotations

import base64
import html
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from algorithms.common.evaluation import Difference, Floats, Score, paired_difference, read_result
from algorithms.common.logs import read_metrics
from igsearch_env.errors import ConfigurationError

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8886 }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; background: white }
"""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    seed: int
    start: str
    folder: Path

    @property
    def result(self) -> Path:
        """Its test result, which is there when the run is complete."""
        return self.folder / "test_after.json"


@dataclass(frozen=True)
class Entry:
    """The runs of one algorithm from one start, in order of seeds."""

    label: str
    cells: tuple[Cell, ...]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(cell.seed for cell in self.cells)

    @cached_property
    def scores(self) -> list[dict[str, Score]]:
        """Test scores of each run, by data set."""
        return [read_result(cell.result)[0] for cell in self.cells]

    @cached_property
    def metrics(self) -> list[list[dict[str, Any]]]:
        """The records of each run."""
        return [read_metrics(cell.folder / "metrics.jsonl") for cell in self.cells]

    def exact_matches(self, seeds: Sequence[int]) -> dict[str, Floats]:
        """EM [seeds, questions] on the test questions, by data set, questions in order of their id."""
        rows = [read_result(self.cells[self.seeds.index(seed)].result)[1] for seed in seeds]
        return {
            name: np.array([[row["em"] for row in sorted(r[name], key=lambda row: str(row["id"]))] for r in rows])
            for name in rows[0]
        }

    @cached_property
    def final(self) -> Floats:
        """Macro-averaged test EM of each run."""
        return np.array([np.mean([s.em for s in scores.values()]) for scores in self.scores])

    def family(self, name: str) -> float:
        """Test EM on one data set, mean over runs."""
        return float(np.mean([scores[name].em for scores in self.scores]))

    @property
    def searches(self) -> float:
        """Searches a test question."""
        return float(np.mean([[s.searches for s in scores.values()] for scores in self.scores]))

    @cached_property
    def curve(self) -> tuple[list[int], Floats]:
        """Steps of the evaluations, and EM [seeds, steps] there."""
        points = [{r["step"]: r["eval/em"] for r in rows if "eval/em" in r} for rows in self.metrics]
        steps = sorted(set.intersection(*(set(p) for p in points)))
        return steps, np.array([[p[step] for step in steps] for p in points])

    @property
    def area(self) -> float:
        """Area under the learning curve, over its length: mean EM on the way."""
        steps, values = self.curve
        return float((np.trapezoid(values, steps, axis=1) / max(steps[-1] - steps[0], 1)).mean())

    def per_step(self, key: str) -> float:
        """A metric of the training steps, mean over steps and runs; 0 where it is missing."""
        values = [row.get(key, 0.0) for rows in self.metrics for row in rows if "reward" in row]
        return float(np.mean(values)) if values else 0.0

    @property
    def gain_share(self) -> float:
        """Share of a training step's time that went into information gain."""
        return self.per_step("time/information_gain") / max(self.per_step("time/step"), 1e-9)


def write_report(cells: Sequence[Cell], against: Sequence[str], folder: Path, command: str, console: Console) -> None:
    """report.md, report.html and curves-START.png in `folder`, and the tables on the console.

    Raises `ConfigurationError` when there is no complete run.
    """
    if not cells:
        raise ConfigurationError(f"{folder} holds no complete run: train some first")
    parts: list[tuple[str, list[list[str]]] | Path] = []
    for start in dict.fromkeys(cell.start for cell in cells):
        entries = make_entries([cell for cell in cells if cell.start == start])
        best = [entry for entry in entries if entry.label in against]
        parts.append((f"Start: {start}", overview(entries)))
        parts.append((f"Start: {start}, EM by family", families(entries)))
        parts += [(f"Start: {start}, against {other.label}", differences(entries, other)) for other in best]
        parts.append(plot(entries, start, folder / f"curves-{start}.png"))
    facts = f"`{command}` on {hardware()}"
    for part in parts:
        if not isinstance(part, Path):
            console.print(_rich(*part))
    _write(folder / "report.md", "\n\n".join([facts, *(_markdown(part, folder) for part in parts)]) + "\n")
    body = "\n".join(_html(part) for part in parts)
    page = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>"
    page += f"Comparison</title><style>{STYLE}</style><h1>Comparison</h1><p>{html.escape(facts)}</p>{body}</html>"
    _write(folder / "report.html", page)
    console.print(f"report in {folder}/: report.md, report.html, curves-*.png")


def make_entries(cells: Sequence[Cell]) -> list[Entry]:
    """The runs by algorithm, in order of first appearance."""
    labels = dict.fromkeys(cell.label for cell in cells)
    by_seed = sorted(cells, key=lambda cell: cell.seed)
    return [Entry(label, tuple(cell for cell in by_seed if cell.label == label)) for label in labels]


def overview(entries: Sequence[Entry]) -> list[list[str]]:
    """One row per algorithm, a header first."""
    head = ["algorithm", "seeds", "test EM", "least to greatest", "area under curve", "searches", "all-fail groups"]
    rows = [[*head, "attempts a step", "s a step", "of it IG"]]
    for entry in entries:
        rows.append(
            [
                entry.label,
                str(len(entry.cells)),
                f"{entry.final.mean():.3f}",
                f"{entry.final.min():.3f} to {entry.final.max():.3f}",
                f"{entry.area:.3f}",
                f"{entry.searches:.2f}",
                f"{entry.per_step('all_fail'):.2f}",
                f"{entry.per_step('attempts'):.0f}",
                f"{entry.per_step('time/step'):.2f}",
                f"{entry.gain_share:.0%}",
            ]
        )
    return rows


def families(entries: Sequence[Entry]) -> list[list[str]]:
    """Test EM by data set, one row per algorithm."""
    names = list(entries[0].scores[0])
    rows = [["algorithm", *names, "macro-average"]]
    for entry in entries:
        rows.append([entry.label, *(f"{entry.family(name):.2f}" for name in names), f"{entry.final.mean():.3f}"])
    return rows


def differences(entries: Sequence[Entry], other: Entry) -> list[list[str]]:
    """Each algorithm's test EM less that of `other`, over the seeds that both have."""
    head = ["algorithm", "seeds", "difference", "95% bootstrap (seeds, questions)", "95% t (seeds)", "verdict"]
    rows = [head]
    for entry in entries:
        seeds = [seed for seed in entry.seeds if seed in other.seeds]
        if entry is other or not seeds:
            continue
        found = paired_difference(entry.exact_matches(seeds), other.exact_matches(seeds))
        t = "" if found.t is None else f"{found.t[0]:+.3f} to {found.t[1]:+.3f}"
        interval = f"{found.bootstrap[0]:+.3f} to {found.bootstrap[1]:+.3f}"
        rows.append([entry.label, str(len(seeds)), f"{found.mean:+.3f}", interval, t, verdict(found)])
    return rows


def verdict(found: Difference) -> str:
    """A winner only where every interval leaves 0 out, and there is more than one seed."""
    if found.t is None:
        return "one seed: no verdict"
    if not found.clear:
        return "inside the noise"
    return "better" if found.mean > 0 else "worse"


def plot(entries: Sequence[Entry], start: str, path: Path) -> Path:
    """Learning curves: mean over seeds, the band from the least to the greatest; evaluation left, training right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), sharey=True)
    for number, entry in enumerate(entries):
        look: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        steps, values = entry.curve
        left.plot(steps, values.mean(axis=0), label=entry.label, **look)
        left.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.12, color=look["color"])
        rewards = [[row["reward"] for row in rows if "reward" in row] for rows in entry.metrics]
        mean = np.mean([r[: min(map(len, rewards))] for r in rewards], axis=0)
        width = min(5, len(mean))
        smooth = np.convolve(mean, np.ones(width) / width, mode="valid")
        right.plot(np.arange(len(smooth)) + width, smooth, **look)
    left.set(xlabel="step", ylabel="EM, macro-average", title=f"greedy evaluation, start: {start}")
    right.set(xlabel="step", title="training outcome (sampled), mean of 5 steps")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def hardware() -> str:
    """What ran it, in a line."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {device}, torch {torch.__version__}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _rich(title: str, rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if place else "left")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _markdown(part: tuple[str, list[list[str]]] | Path, folder: Path) -> str:
    if isinstance(part, Path):
        return f"![learning curves]({part.relative_to(folder)})"
    title, (head, *rows) = part
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"## {title}\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _html(part: tuple[str, list[list[str]]] | Path) -> str:
    if isinstance(part, Path):
        data = base64.b64encode(part.read_bytes()).decode()
        return f"<img alt='learning curves; the numbers are in the tables' src='data:image/png;base64,{data}'>"
    title, (head, *rows) = part
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{html.escape(title)}</h2><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
