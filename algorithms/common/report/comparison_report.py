"""Several runs on one page: curves over each other, differences with intervals, what was set otherwise.

Runs that differ by seed alone are one entry. The first one is what the others are compared with.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.common.comparison import verdict
from algorithms.common.fingerprint import MODEL, differences
from algorithms.common.flat import flat
from algorithms.common.intervals import Difference
from algorithms.common.report.charts import Chart, Line, charts_html, css, js, number, smooth, table_html, width_for
from algorithms.common.report.figures import common, difference, macro_em, shown, shown_difference
from algorithms.common.report.page import page
from algorithms.common.report.read_run import RunRecord, read_run
from algorithms.common.report.run_charts import SHARES, at_steps
from algorithms.common.results import Result
from algorithms.common.run_folder import MAY_CHANGE
from igsearch_env.errors import ConfigurationError

# What runs that differ by seed alone may differ in besides; steps change what a run is.
NOT_COMPUTED = ({*MAY_CHANGE} - {"steps"}) | {"seed", "threads"}
PLACES = ("run_dir", "config", "overwrite")
# Settings that decide the numbers of an evaluation.
EVALUATED = ("env.", "policy.chat", "policy.context_length", "rollout.max_new_tokens")
NOT_EVALUATED = ("env.questions", "env.outcome_reward", "env.max_failure_rate", "env.attempts")
CURVES = (  # metric, title, unit
    ("reward", "Training reward", "mean over questions"),
    ("searches", "Searches", "searches a trajectory"),
    ("information_gain/mean", "Information gain", "nats a search"),
    ("policy/entropy", "Entropy", "nats a token"),
    ("all_fail", "Groups that all fail", "share of groups"),
    ("time/step", "Time of a step", "seconds"),
)


@dataclass(frozen=True)
class Entry:
    """Runs that differ by seed alone, in order of seeds."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def results(self) -> dict[int, Result]:
        """Results after training, by seed."""
        return {run.seed: run.after for run in self.runs if run.after is not None}


def comparison_report(run_dirs: Sequence[Path]) -> str:
    """The comparison as one HTML document. Raises `ConfigurationError` unless it is given two runs or more."""
    folders = list(dict.fromkeys(path.resolve() for path in run_dirs))
    if len(folders) < 2:
        raise ConfigurationError(f"a comparison of {len(folders)} run: give two different run folders or more")
    runs = [read_run(folder) for folder in folders]
    entries = make_entries(runs)
    title = "Comparison of " + (
        ", ".join(entry.label for entry in entries) if len(entries) > 1 else f"{len(runs)} runs of {entries[0].label}"
    )
    sections = [_warnings(runs), _differences(entries), _by_dataset(entries), _runs(entries), _curves(entries)]
    sections.append(_settings(runs))
    body = f"<header><h1>{html.escape(title)}</h1></header>\n<main>\n{''.join(sections)}</main>"
    return page(title, body, css=css() + ".warnings strong { color: var(--bad); }", js=js())


def make_entries(runs: Sequence[RunRecord]) -> list[Entry]:
    """Runs by all that their results depend on but the seed, in order of first appearance, each under its own label."""
    groups: list[list[RunRecord]] = []
    for run in runs:
        fitting = (
            group
            for group in groups
            if run.config and _alike(run, group[0]) and run.seed not in {r.seed for r in group}
        )
        group = next(fitting, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    labels = [_label(group[0], [other[0] for other in groups if other is not group]) for group in groups]
    return [
        Entry(
            f"{label} [{group[0].name}]" if labels.count(label) > 1 else label,
            tuple(sorted(group, key=lambda run: run.seed)),
        )
        for label, group in zip(labels, groups, strict=True)
    ]


def _settings_of(run: RunRecord) -> dict[str, Any]:
    found = flat(run.config)
    return {key: value for key, value in found.items() if not {key, key.partition(".")[0]} & NOT_COMPUTED}


def _alike(a: RunRecord, b: RunRecord) -> bool:
    return _settings_of(a) == _settings_of(b)


def _label(run: RunRecord, others: Sequence[RunRecord]) -> str:
    """The algorithm, and what sets the run apart from others of it: at most two settings."""
    rivals = [_settings_of(other) for other in others if other.algorithm == run.algorithm]
    own = _settings_of(run)
    apart = [key for key in own if any(rival.get(key) != own[key] for rival in rivals)]
    return " ".join([run.algorithm, *(f"{key.rpartition('.')[2]}={own[key]}" for key in apart[:2])])


# ---------------------------------------------------------------- the sections


def _warnings(runs: Sequence[RunRecord]) -> str:
    items = [f"<li><strong>{html.escape(a)}</strong> {html.escape(b)}</li>" for a, b in warnings(runs)]
    return f'<h2>Unlike</h2><ul class="warnings">{"".join(items)}</ul>' if items else ""


def warnings(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str]]:
    """What makes figures of a run and of the first one unlike: name of the run, and what it is."""
    first = runs[0]
    for run in runs:
        if run.after is None:
            yield run.name, "has no evaluation after training, so it is in no table of differences."
        elif run.planned is not None and run.done < run.planned:
            yield run.name, f"is unfinished: {run.done} of {run.planned} steps."
    for run in runs[1:]:
        if run.after is not None and first.after is not None:
            yield from ((run.name, text) for text in _unlike_questions(first.after, run.after))
        if first.fingerprint and run.fingerprint:
            unlike = differences(first.fingerprint, run.fingerprint, MODEL)
            if unlike:
                yield run.name, f"was evaluated in another way than {first.name}: {'; '.join(unlike)}."
            continue
        if bool(first.fingerprint) != bool(run.fingerprint):
            lacking = run if first.fingerprint else first
            yield lacking.name, "has no fingerprint: what was evaluated there can't be checked."
        a, b = flat(first.config), flat(run.config)
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key) and key.startswith(EVALUATED)]
        keys = [key for key in keys if key not in NOT_EVALUATED]
        if keys and a and b:
            yield run.name, f"was evaluated under other settings than {first.name}: {', '.join(keys)}."
        if first.done != run.done:
            yield run.name, f"had {run.done} steps, {first.name} {first.done}."


def _unlike_questions(a: Result, b: Result) -> Iterator[str]:
    left, right = ({row.key: row for rows in result.rows.values() for row in rows} for result in (a, b))
    shared = left.keys() & right.keys()
    alone = len(left.keys() ^ right.keys())
    if alone:
        yield f"has other test questions: {alone} are in one of the two; differences are over the other {len(shared)}."
    changed = [
        key
        for key in shared
        if (left[key].question, left[key].golden_answers) != (right[key].question, right[key].golden_answers)
    ]
    if changed:
        yield f"has {len(changed)} test questions of another text or other golden answers under the same id."


def _pairs(ours: Entry, theirs: Entry) -> tuple[list[Result], list[Result]]:
    """Results of both, paired: by seed, and where they share none, in order."""
    left, right = ours.results, theirs.results
    seeds = [(seed, seed) for seed in left if seed in right] or list(zip(left, right, strict=False))
    return [left[seed] for seed, _ in seeds], [right[seed] for _, seed in seeds]


def _against(entry: Entry, first: Entry, names: Sequence[str] | None = None) -> tuple[int, Difference | None]:
    """Number of pairs of runs, and the difference."""
    ours, theirs = _pairs(entry, first)
    return len(ours), difference(ours, theirs, names) if ours else None


def _differences(entries: Sequence[Entry]) -> str:
    first = entries[0]
    if len(entries) == 1:
        return _spread(first)
    head = ["entry", "seeds", "test EM", "pairs", f"less {first.label}", "95% (questions, seeds)", "95% t (seeds)"]
    rows = []
    for entry in entries:
        finals = [found[0] for found in map(macro_em, entry.results.values()) if found]
        mean = f"{np.mean(finals):.3f}" if finals else ""
        row = [entry.label, ", ".join(str(run.seed) for run in entry.runs), mean]
        if entry is first:
            rows.append([*row, "", "", "", "", ""])
            continue
        count, found = _against(entry, first)
        t = "" if found is None or found.t is None else shown(found.t, "+.3f")
        said = "no common question" if found is None else verdict(found)
        rows.append([*row, str(count), *shown_difference(found), t, said])
    title = "Test EM and differences"
    return (
        f"<h2>{title}</h2>{table_html(title, [*head, 'verdict'], rows)}"
        '<p class="quiet">EM is macro-averaged over data sets. Differences are paired by question and by seed (in '
        "order where no seed is common). The bootstrap draws questions and seeds again; Student's t asks whether other "
        "seeds would agree on these questions. A verdict needs both to leave out 0, and more than one seed.</p>"
    )


def _spread(entry: Entry) -> str:
    finals = [found[0] for found in map(macro_em, entry.results.values()) if found]
    if not finals:
        return ""
    spread = f", from {min(finals):.3f} to {max(finals):.3f}" if len(finals) > 1 else ""
    return (
        f"<h2>Test EM</h2><p>{html.escape(entry.label)}, {len(finals)} runs that differ by seed alone: mean "
        f"{np.mean(finals):.3f}{spread}.</p>"
    )


def _by_dataset(entries: Sequence[Entry]) -> str:
    present = [entry for entry in entries if entry.results]
    if len(present) < 2:
        return ""
    first, *others = present
    names = list(common([result for entry in present for result in entry.results.values()]))
    head = ["data set", first.label]
    head += [text for other in others for text in (other.label, "difference", "95%")]
    rows = []
    for name in names:
        row = [name, f"{_em(first, name):.3f}"]
        for other in others:
            row += [f"{_em(other, name):.3f}", *shown_difference(_against(other, first, [name])[1])]
        rows.append(row)
    title = "Test EM by data set"
    note = '<p class="quiet">EM is the mean over all seeds, a difference that over the pairs of runs.</p>'
    return f"<h2>{title}</h2>{table_html(title, head, rows)}{note}" if rows else ""


def _em(entry: Entry, name: str) -> float:
    return float(np.mean([result.scores[name].em for result in entry.results.values()]))


def _runs(entries: Sequence[Entry]) -> str:
    head = ["run", "entry", "seed", "steps", "EM before", "EM after", "95%", "best dev EM", "searches", "s a step"]
    rows = []
    for entry in entries:
        for run in entry.runs:
            before, after = (macro_em(result) if result else None for result in (run.before, run.after))
            times = [value for value in (number(row.get("time/step")) for row in run.training) if value is not None]
            searches = [score.searches for score in run.after.scores.values() if score.n] if run.after else []
            rows.append(
                [
                    run.name,
                    entry.label,
                    str(run.seed),
                    f"{run.done}" + (f" of {run.planned}" if run.planned is not None else ""),
                    f"{before[0]:.3f}" if before else "",
                    f"{after[0]:.3f}" if after else "",
                    shown(after[1]) if after else "",
                    f"{max(row['dev/em'] for row in run.dev):.3f}" if run.dev else "",
                    f"{np.mean(searches):.2f}" if searches else "",
                    f"{np.mean(times):.2f}" if times else "",
                ]
            )
    return f"<h2>Runs</h2>{table_html('Runs', head, rows)}"


def _curves(entries: Sequence[Entry]) -> str:
    charts = [_evaluations(entries), *(_curve(entries, *entry) for entry in CURVES)]
    drawn = charts_html([chart for chart in charts if chart.lines])
    several = any(len(entry.runs) > 1 for entry in entries)
    faint = (
        "of several runs the mean over seeds; faint lines are its runs" if several else "faint lines are single steps"
    )
    if not drawn:
        return ""
    return f'<h2>Curves</h2><p class="quiet">Bold lines are moving means, {faint}.</p>\n{drawn}'


def _evaluations(entries: Sequence[Entry]) -> Chart:
    """EM on dev questions; on test questions where no run has any."""
    dev = any(run.dev for entry in entries for run in entry.runs)
    key = "dev/em" if dev else "eval/em"
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


def _curve(entries: Sequence[Entry], key: str, title: str, unit: str) -> Chart:
    steps = sorted({row["step"] for entry in entries for run in entry.runs for row in run.training})
    width = width_for(len(steps))
    faint, bold = [], []
    for style, entry in enumerate(entries):
        columns = [at_steps(run.training, key, steps) for run in entry.runs]
        for run, values in zip(entry.runs, columns, strict=True):
            shown_values = values if len(columns) == 1 else smooth(values, width)
            name = f"{entry.label}, each step" if len(columns) == 1 else f"{entry.label}, seed {run.seed}"
            faint.append(Line(name, shown_values, style, faint=True))
        bold.append(Line(entry.label, smooth(_mean(columns), width), style))
    return Chart(title, unit, steps, _present([*faint, *bold]))


def _mean(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the runs at the steps that all of them have."""
    result: list[float | None] = []
    for values in zip(*columns, strict=True):
        found = [value for value in values if value is not None]
        result.append(number(sum(found) / len(found)) if len(found) == len(values) else None)
    return result


def _present(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if any(value is not None for value in line.values)]


def _settings(runs: Sequence[RunRecord]) -> str:
    settings = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found if not key.startswith(PLACES))
    rows = [
        [key, *("not set" if key not in found else str(found[key]) for found in settings)]
        for key in keys
        if any(found.get(key) != settings[0].get(key) for found in settings)
    ]
    title = "Settings that differ"
    return f"<h2>{title}</h2>" + (
        table_html(title, ["setting", *(run.name for run in runs)], rows) if rows else "<p>None but places on disk.</p>"
    )
