"""Comparison of several runs on one page: common charts, differences with intervals, settings that differ.

Runs that differ only by seed form one group. The other groups are compared with the first one.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from algorithms.common.base.flat import flat
from algorithms.common.evaluation.intervals import verdict
from algorithms.common.report.charts import charts_html, css, js, number, table_html
from algorithms.common.report.comparable import SeedGroup, against, make_seed_groups, warnings
from algorithms.common.report.comparison_charts import comparison_charts
from algorithms.common.report.figures import common, macro_em, shown, shown_difference
from algorithms.common.report.page import page
from algorithms.common.run.saved_run import SavedRun, read_run
from igsearch_env.errors import ConfigurationError

PLACES = ("run_dir", "config", "overwrite")


def comparison_report(run_dirs: Sequence[Path]) -> str:
    """The comparison as one HTML document. Raises `ConfigurationError` unless it is given two runs or more."""
    folders = list(dict.fromkeys(path.resolve() for path in run_dirs))
    if len(folders) < 2:
        raise ConfigurationError(f"{len(folders)} run can't be compared: give two different run folders or more")
    runs = [read_run(folder) for folder in folders]
    entries = make_seed_groups(runs)
    title = "Comparison of " + (
        ", ".join(entry.label for entry in entries) if len(entries) > 1 else f"{len(runs)} runs of {entries[0].label}"
    )
    sections = [_warnings(runs), _differences(entries), _by_dataset(entries), _runs(entries), _curves(entries)]
    sections.append(_settings(runs))
    body = f"<header><h1>{html.escape(title)}</h1></header>\n<main>\n{''.join(sections)}</main>"
    return page(title, body, css=css() + ".warnings strong { color: var(--bad); }", js=js())


# ---------------------------------------------------------------- the sections


def _warnings(runs: Sequence[SavedRun]) -> str:
    items = [f"<li><strong>{html.escape(a)}</strong> {html.escape(b)}</li>" for a, b in warnings(runs)]
    return f'<h2>Differences between runs</h2><ul class="warnings">{"".join(items)}</ul>' if items else ""


def _differences(entries: Sequence[SeedGroup]) -> str:
    first = entries[0]
    if len(entries) == 1:
        return _spread(first)
    head = ["group", "seeds", "test EM", "pairs", f"minus {first.label}", "95% (questions, seeds)", "95% t (seeds)"]
    rows = []
    for entry in entries:
        finals = [found[0] for found in map(macro_em, entry.results.values()) if found]
        mean = f"{np.mean(finals):.3f}" if finals else ""
        row = [entry.label, ", ".join(str(run.seed) for run in entry.runs), mean]
        if entry is first:
            rows.append([*row, "", "", "", "", ""])
            continue
        count, found = against(entry, first)
        t = "" if found is None or found.t is None else shown(found.t, "+.3f")
        said = "no common questions" if found is None else verdict(found)
        rows.append([*row, str(count), *shown_difference(found), t, said])
    title = "Test EM and differences"
    return (
        f"<h2>{title}</h2>{table_html(title, [*head, 'verdict'], rows)}"
        '<p class="quiet">EM is macro-averaged over data sets. Differences are paired by question and by seed (by '
        "order if no seed is common). The bootstrap resamples questions and seeds; the interval of Student's t covers "
        "other seeds on the same questions. A verdict requires that both exclude 0, and more than one seed.</p>"
    )


def _spread(entry: SeedGroup) -> str:
    finals = [found[0] for found in map(macro_em, entry.results.values()) if found]
    if not finals:
        return ""
    spread = f", from {min(finals):.3f} to {max(finals):.3f}" if len(finals) > 1 else ""
    return (
        f"<h2>Test EM</h2><p>{html.escape(entry.label)}, {len(finals)} runs that differ only by seed: mean "
        f"{np.mean(finals):.3f}{spread}.</p>"
    )


def _by_dataset(entries: Sequence[SeedGroup]) -> str:
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
            row += [f"{_em(other, name):.3f}", *shown_difference(against(other, first, [name])[1])]
        rows.append(row)
    title = "Test EM by data set"
    note = '<p class="quiet">EM is the mean over all seeds; differences are means over the pairs of runs.</p>'
    return f"<h2>{title}</h2>{table_html(title, head, rows)}{note}" if rows else ""


def _em(entry: SeedGroup, name: str) -> float:
    return float(np.mean([result.scores[name].em for result in entry.results.values()]))


def _runs(entries: Sequence[SeedGroup]) -> str:
    head = ["run", "group", "seed", "steps", "EM before", "EM after", "95%", "best dev EM", "searches", "s/step"]
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


def _curves(entries: Sequence[SeedGroup]) -> str:
    drawn = charts_html(comparison_charts(entries))
    several = any(len(entry.runs) > 1 for entry in entries)
    faint = " of the mean over seeds; faint lines are single runs" if several else "; faint lines are single steps"
    if not drawn:
        return ""
    return f'<h2>Curves</h2><p class="quiet">Bold lines are moving averages{faint}.</p>\n{drawn}'


def _settings(runs: Sequence[SavedRun]) -> str:
    settings = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found if not key.startswith(PLACES))
    rows = [
        [key, *("not set" if key not in found else str(found[key]) for found in settings)]
        for key in keys
        if any(found.get(key) != settings[0].get(key) for found in settings)
    ]
    title = "Settings that differ"
    return f"<h2>{title}</h2>" + (
        table_html(title, ["setting", *(run.name for run in runs)], rows) if rows else "<p>None, except for paths.</p>"
    )
