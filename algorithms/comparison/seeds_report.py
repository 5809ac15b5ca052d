"""Reports on several runs: tables with simultaneous intervals, curves with bands; Markdown, HTML and PNG."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from algorithms.common.base.files import atomic_write
from algorithms.common.base.hardware import hardware
from algorithms.common.evaluation.simultaneous import Interval, simultaneous_differences
from algorithms.common.report.charts import table_html
from algorithms.common.report.page import page, write
from algorithms.common.run.evaluation_metrics import Split
from algorithms.comparison.costs import cost_table, steps_to_em_table
from algorithms.comparison.hacking_table import hacking_table
from algorithms.comparison.learning_rates import rate_of, rate_table, rates_by_method
from algorithms.comparison.run_summary import Cost, RunSummary, SeedGroup, make_seed_groups
from igsearch_env.errors import ConfigurationError

STYLE = "main img { max-width: 100%; background: white; }"  # the curves are drawn for a light page


COSTS = (
    "Time is that of training steps, without evaluations; it can be compared where the runs were trained alone on the "
    "same machine (--jobs 1). Rollouts count attempts; tokens read do not include what scoring information gain reads. "
    "EM is of dev questions, at the largest cost that every method reached, interpolated between evaluations; the time "
    "of a step is the median over the runs there."
)
STEPS = (
    "The first evaluation at which dev EM is at least this high. The mean counts runs that do not reach it as if they "
    "had at the last evaluation, so it is a lower bound (restricted mean)."
)
RATES = (
    "Compared at: the rate with the highest dev EM at the last evaluation, mean over these seeds, which no other "
    "comparison uses."
)
DIFFERENCES = (
    "Paired by seed and question. Both intervals cover new seeds and new questions: the first holds for its row alone, "
    "the second for all rows of the table at once (max-t). The verdict is that of the second."
)


@dataclass(frozen=True)
class Section:
    """A table with its title, a header as its first row, and a note below it."""

    title: str
    rows: list[list[str]]
    note: str = ""


def write_report(
    records: Sequence[RunSummary],
    against: Sequence[str],
    folder: Path,
    command: str,
    console: Console,
    reach: Sequence[float] = (0.5,),
) -> None:
    """report.md, report.html, runs.jsonl and curves-START.png in `folder`, and the tables on the console.

    `reach`: values of dev EM to which steps are counted. Raises `ConfigurationError` when there is no record.
    """
    if not records:
        raise ConfigurationError(f"{folder} holds no complete run: train some first")
    _write(folder / "runs.jsonl", "".join(json.dumps(asdict(record)) + "\n" for record in records))
    parts: list[Section | Path] = []
    for start in dict.fromkeys(record.start for record in records):
        entries = make_seed_groups([record for record in records if record.start == start])
        parts += sections(entries, against, f"Start: {start}", reach)
        parts.append(plot(entries, start, folder / f"curves-{start}.png"))
    facts = f"`{command}` on {hardware()}"
    trained = ", ".join(dict.fromkeys(record.hardware for record in records if record.hardware))
    facts += f"; trained on {trained}" if trained else ""
    for part in parts:
        if isinstance(part, Section):
            console.print(_rich(part))
    _write(folder / "report.md", "\n\n".join([facts, *(_markdown(part, folder) for part in parts)]) + "\n")
    body = "\n".join([f"<p>{html.escape(facts)}</p>", *map(_html, parts)])
    header = "<header><h1>Comparison</h1></header>"
    write(folder / "report.html", page("Comparison", f"{header}\n<main>\n{body}\n</main>", css=STYLE))
    console.print(f"report in {folder}/: report.md, report.html, runs.jsonl, curves-*.png")


def sections(entries: Sequence[SeedGroup], against: Sequence[str], title: str, reach: Sequence[float]) -> list[Section]:
    """The tables of one start. `against`: labels, or methods that have one learning rate only."""
    names = [rate_of(entry.label)[0] for entry in entries]
    alone = [name if names.count(name) == 1 else entry.label for name, entry in zip(names, entries, strict=True)]
    baselines = [e for name, e in zip(alone, entries, strict=True) if name in against or e.label in against]
    found = [
        Section(title, overview(entries)),
        Section(f"{title}, EM by family", families(entries)),
        Section(f"{title}, learning rates", rate_table(rates_by_method(entries)), RATES),
        *(Section(f"{title}, against {other.label}", differences(entries, other), DIFFERENCES) for other in baselines),
        Section(f"{title}, costs", cost_table(entries, next(iter(baselines), None)), COSTS),
        Section(f"{title}, reward hacking in training, share of searches", hacking_table(entries)),
        Section(f"{title}, steps to an EM", steps_to_em_table(entries, reach), STEPS),
    ]
    return [section for section in found if any(any(row[1:]) for row in section.rows[1:])]  # some have no figures


def overview(entries: Sequence[SeedGroup]) -> list[list[str]]:
    """One row per algorithm, after a header."""
    rows = [
        ["algorithm", "seeds", "test EM", "lowest to highest", "area under dev curve", "searches", "all-fail groups"]
    ]
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
    seeds = {entry.label: [seed for seed in entry.seeds if seed in other.seeds] for entry in entries}
    compared = [entry for entry in entries if entry is not other and seeds[entry.label]]
    values = []
    for entry in compared:
        ours, theirs = (group.exact_matches(seeds[entry.label]) for group in (entry, other))
        values.append({name: ours[name] - theirs[name] for name in ours})
    found = simultaneous_differences(values, [seeds[entry.label] for entry in compared])
    together = f"95%, all {len(compared)} rows" if len(compared) > 1 else "95%, this row"
    rows = [["algorithm", "seeds", "difference", "95%, this row alone", together, "verdict"]]
    for entry, one in zip(compared, found, strict=True):
        intervals = [_interval(one.alone), _interval(one.simultaneous)]
        rows.append([entry.label, str(one.seeds), f"{one.mean:+.3f}", *intervals, one.verdict])
    return rows if len(compared) > 1 else [[*row[:3], *row[4:]] for row in rows]


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found[0]:+.3f} to {found[1]:+.3f}"


def plot(entries: Sequence[SeedGroup], start: str, path: Path) -> Path:
    """Evaluations by rollouts and by seconds of training, and training by steps: means over seeds.

    Bands go from the lowest to the highest seed. The evaluations are those on dev questions, or on test questions where
    a group has no dev evaluation.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    split: Split = "dev" if all(entry.curve("dev")[0] for entry in entries) else "test"
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(18, 5), sharey=True)
    axes: dict[Cost, Any] = {"attempts": left, "seconds": middle}
    for number, entry in enumerate(entries):
        look: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        for cost, axis in axes.items():
            steps, values = entry.curve(split)
            spent = entry.spent(cost)[steps]
            axis.plot(spent, values.mean(axis=0), label=entry.label, **look)
            axis.fill_between(spent, values.min(axis=0), values.max(axis=0), alpha=0.12, color=look["color"])
        shortest = min(record.steps for record in entry.records)
        mean = np.mean([record.rewards[:shortest] for record in entry.records], axis=0)
        width = min(5, len(mean))
        smooth = np.convolve(mean, np.ones(width) / width, mode="valid")
        right.plot(np.arange(len(smooth)) + width, smooth, label=entry.label, **look)
    left.set(xlabel="rollouts", ylabel="EM, macro-average", title=f"greedy, {split} questions, start: {start}")
    middle.set(xlabel="seconds of training, without evaluations", title="the same at equal wall-clock time")
    right.set(xlabel="step", title="training outcome (sampled), mean of 5 steps")
    right.legend(fontsize=8)
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def _rich(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", caption=section.note or None, caption_justify="left")
    for place, name in enumerate(section.rows[0]):
        table.add_column(name, justify="right" if place else "left")
    for row in section.rows[1:]:
        table.add_row(*row)
    return table


def _markdown(part: Section | Path, folder: Path) -> str:
    if isinstance(part, Path):
        return f"![learning curves]({part.relative_to(folder)})"
    head, *rows = part.rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([f"## {part.title}", table, *([part.note] if part.note else [])])


def _html(part: Section | Path) -> str:
    if isinstance(part, Path):
        data = base64.b64encode(part.read_bytes()).decode()
        return f"<img alt='learning curves; the numbers are in the tables' src='data:image/png;base64,{data}'>"
    head, *rows = part.rows
    note = f'<p class="quiet">{html.escape(part.note)}</p>' if part.note else ""
    return f"<h2>{html.escape(part.title)}</h2>{table_html(part.title, head, rows)}{note}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
