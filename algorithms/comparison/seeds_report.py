"""Reports on several runs: tables with paired intervals, learning curves with bands; Markdown, HTML and PNG."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from algorithms.common.base.files import atomic_write
from algorithms.common.base.hardware import hardware
from algorithms.common.evaluation.intervals import paired_difference, verdict
from algorithms.common.report.charts import table_html
from algorithms.common.report.page import page, write
from algorithms.common.run.evaluation_metrics import Split
from algorithms.comparison.hacking_table import hacking_table
from algorithms.comparison.run_summary import RunSummary, SeedGroup, make_seed_groups
from igsearch_env.errors import ConfigurationError

STYLE = "main img { max-width: 100%; background: white; }"  # the curves are drawn for a light page


def write_report(
    records: Sequence[RunSummary], against: Sequence[str], folder: Path, command: str, console: Console
) -> None:
    """report.md, report.html, runs.jsonl and curves-START.png in `folder`, and the tables on the console.

    Raises `ConfigurationError` when there is no record.
    """
    if not records:
        raise ConfigurationError(f"{folder} holds no complete run: train some first")
    _write(folder / "runs.jsonl", "".join(json.dumps(asdict(record)) + "\n" for record in records))
    parts: list[tuple[str, list[list[str]]] | Path] = []
    for start in dict.fromkeys(record.start for record in records):
        entries = make_seed_groups([record for record in records if record.start == start])
        parts.append((f"Start: {start}", overview(entries)))
        parts.append((f"Start: {start}, EM by family", families(entries)))
        parts.append((f"Start: {start}, reward hacking in training, share of searches", hacking_table(entries)))
        others = [entry for entry in entries if entry.label in against]
        parts += [(f"Start: {start}, against {other.label}", differences(entries, other)) for other in others]
        parts.append(plot(entries, start, folder / f"curves-{start}.png"))
    facts = f"`{command}` on {hardware()}"
    for part in parts:
        if not isinstance(part, Path):
            console.print(_rich(*part))
    _write(folder / "report.md", "\n\n".join([facts, *(_markdown(part, folder) for part in parts)]) + "\n")
    body = "\n".join([f"<p>{html.escape(facts)}</p>", *map(_html, parts)])
    header = "<header><h1>Comparison</h1></header>"
    write(folder / "report.html", page("Comparison", f"{header}\n<main>\n{body}\n</main>", css=STYLE))
    console.print(f"report in {folder}/: report.md, report.html, runs.jsonl, curves-*.png")


def overview(entries: Sequence[SeedGroup]) -> list[list[str]]:
    """One row per algorithm, after a header."""
    head = ["algorithm", "seeds", "test EM", "min to max", "area under dev curve", "searches", "all-fail groups"]
    rows = [[*head, "attempts/step", "s/step", "IG time"]]
    for entry in entries:
        rows.append(
            [
                entry.label,
                str(len(entry.records)),
                f"{entry.final.mean():.3f}",
                f"{entry.final.min():.3f} to {entry.final.max():.3f}",
                "" if entry.area is None else f"{entry.area:.3f}",
                f"{entry.searches:.2f}",
                f"{entry.per_step('all_fail'):.2f}",
                f"{entry.per_step('attempts'):.0f}",
                f"{entry.per_step('time/step'):.2f}",
                f"{entry.gain_share:.0%}",
            ]
        )
    return rows


def families(entries: Sequence[SeedGroup]) -> list[list[str]]:
    """Test EM by data set, one row per algorithm."""
    names = list(entries[0].families)
    rows = [["algorithm", *names, "macro-average"]]
    for entry in entries:
        means = [f"{entry.families[name].mean():.2f}" for name in names]
        rows.append([entry.label, *means, f"{entry.final.mean():.3f}"])
    return rows


def differences(entries: Sequence[SeedGroup], other: SeedGroup) -> list[list[str]]:
    """Each algorithm's test EM minus that of `other`, over the seeds that both have."""
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


def plot(entries: Sequence[SeedGroup], start: str, path: Path) -> Path:
    """Learning curves: mean over seeds, with a band from minimum to maximum; evaluation left, training right.

    The evaluations are those on dev questions, or on test questions where a group has no dev evaluation.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    split: Split = "dev" if all(entry.curve("dev")[0] for entry in entries) else "test"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), sharey=True)
    for number, entry in enumerate(entries):
        look: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        steps, values = entry.curve(split)
        left.plot(steps, values.mean(axis=0), label=entry.label, **look)
        left.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.12, color=look["color"])
        shortest = min(len(record.rewards) for record in entry.records)
        mean = np.mean([record.rewards[:shortest] for record in entry.records], axis=0)
        width = min(5, len(mean))
        smooth = np.convolve(mean, np.ones(width) / width, mode="valid")
        right.plot(np.arange(len(smooth)) + width, smooth, **look)
    left.set(xlabel="step", ylabel="EM, macro-average", title=f"greedy, {split} questions, start: {start}")
    right.set(xlabel="step", title="training outcome (sampled), mean of 5 steps")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


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
    return f"<h2>{html.escape(title)}</h2>{table_html(title, head, rows)}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
