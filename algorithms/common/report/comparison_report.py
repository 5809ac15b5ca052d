"""Comparison of several runs on one page: common charts, differences with intervals, settings that differ.

Runs that differ only by seed form one group. The other groups are compared with the first one.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from algorithms.common.base.flat import flat
from algorithms.common.evaluation.simultaneous import Paired
from algorithms.common.report.charts import Cell, charts_html, css, js, number, table_html
from algorithms.common.report.comparable import Compared, SeedGroup, against, make_seed_groups, together, warnings
from algorithms.common.report.comparison_charts import comparison_charts
from algorithms.common.report.figures import em_of, macro_em, shown, shown_difference, shown_em
from algorithms.common.report.page import header, navigation, page
from algorithms.common.report.run_report import REPORT
from algorithms.common.report.run_setup import PLACES, defaults, shown_value
from algorithms.common.run.saved_run import SavedRun, read_run
from igsearch_env.errors import ConfigurationError

STYLE = """
.warnings strong { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def comparison_report(run_dirs: Sequence[Path], place: Path | None = None) -> str:
    """The comparison as one HTML document. Raises `ConfigurationError` unless it is given two runs or more.

    `place`: the folder that it is written to; with it, the page links to the reports of the runs.
    """
    folders = list(dict.fromkeys(path.resolve() for path in run_dirs))
    if len(folders) < 2:
        raise ConfigurationError(f"{len(folders)} run can't be compared: give two different run folders or more")
    runs = [read_run(folder) for folder in folders]
    entries = make_seed_groups(runs)
    title = "Comparison of " + (
        ", ".join(entry.label for entry in entries) if len(entries) > 1 else f"{len(runs)} runs of {entries[0].label}"
    )
    sections = [_warnings(runs), _differences(entries), _settings(entries), _by_dataset(entries), _runs(entries)]
    sections.append(_curves(entries))
    reports = [] if place is None else list(_reports(runs, place.resolve()))
    links = navigation("Comparison", "", reports) if reports else ""
    body = f"{header(title, links)}\n<main>\n{''.join(sections)}</main>"
    return page(title, body, css=css() + STYLE, js=js())


def _reports(runs: Sequence[SavedRun], place: Path) -> Iterator[tuple[str, str]]:
    """Address and name of the report of each run that has one."""
    for run in runs:
        if (run.folder / REPORT).is_file():
            yield quote(os.path.relpath(run.folder / REPORT, place), errors="surrogateescape"), run.name


# ---------------------------------------------------------------- the sections


def _warnings(runs: Sequence[SavedRun]) -> str:
    items = []
    for place, (name, message, details) in enumerate(warnings(runs)):
        lines = html.escape("\n".join(details))
        whole = f'<details id="details-{place}"><summary>All differences</summary><pre>{lines}</pre></details>'
        items.append(f"<li><strong>{html.escape(name)}</strong> {html.escape(message)}{whole if details else ''}</li>")
    return f'<h2>Differences between runs</h2><ul class="warnings">{"".join(items)}</ul>' if items else ""


def _differences(entries: Sequence[SeedGroup]) -> str:
    first = entries[0]
    if len(entries) == 1:
        return _spread(first)
    found = [against(entry, first) for entry in entries[1:]]
    paired = together(found)
    several = sum(one is not None and one.seeds > 1 for one in paired)
    head: list[Cell] = ["group", "seeds", "test EM", (f"minus {first.label}", "[95%]")]
    head += [("all rows together", "[95%]")] if several > 1 else []
    head += ["verdict", "common questions", "pairs of runs"]
    rows: list[list[Cell]] = [[first.label, _seeds(first), _mean_em(first)]]
    for entry, one, pair in zip(entries[1:], found, paired, strict=True):
        rows.append([entry.label, _seeds(entry), _mean_em(entry), *_against_first(one, pair, several > 1)])
    rows[0] += [""] * (len(head) - len(rows[0]))
    title = "Test EM and differences"
    return (
        f"<h2>{title}</h2>{table_html(title, head, rows)}"
        '<p class="quiet">EM is macro-averaged over data sets. A single run has an interval over questions, '
        "combined from the Wilson intervals of its data sets; several runs have their range. Differences are paired by "
        "question and by seed (by order if no seed is common), over the questions that all of these runs have in "
        "common. The interval of a single pair of runs is a bootstrap over questions; that of several covers new seeds "
        "and new questions. Where several groups are compared, the interval of all rows together holds for all of them "
        "at once. A verdict requires that it excludes 0, and more than one seed.</p>"
    )


def _against_first(found: Compared, paired: Paired | None, wide: bool) -> list[Cell]:
    """The cells of a group's comparison with the first one; `wide`: with the interval of all rows together."""
    if paired is None or paired.alone is None or paired.simultaneous is None:
        cells: list[Cell] = [shown_difference(found.difference), *([""] if wide else [])]
    else:
        alone, simultaneous = (shown(interval, "+.3f") for interval in (paired.alone, paired.simultaneous))
        cells = [(f"{paired.mean:+.3f}", alone), *([simultaneous] if wide else [])]
    said = "not comparable" if paired is None else paired.verdict
    return [*cells, said, f"{found.questions:,}", str(len(found.seeds))]


def _seeds(entry: SeedGroup) -> Cell:
    seeds = ", ".join(str(run.seed) for run in entry.runs)
    return str(len(entry.runs)), f"({'seed' if len(entry.runs) == 1 else 'seeds'} {seeds})"


def _mean_em(entry: SeedGroup) -> Cell:
    """Mean EM of the runs, with the interval of a single run or the range of several."""
    found = [em for em in map(macro_em, entry.results.values()) if em]
    if len(found) < 2:
        return shown_em(found[0]) if found else ""
    ems = [em for em, _ in found]
    return f"{np.mean(ems):.3f}", f"({min(ems):.3f} to {max(ems):.3f})"


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
    names = dict.fromkeys(name for entry in present for result in entry.results.values() for name in result.scores)
    head: list[Cell] = ["data set", first.label]
    head += [cell for other in others for cell in (other.label, _minus(other, first))]
    rows: list[list[Cell]] = []
    for name in names:
        row: list[Cell] = [name, _em(first, name)]
        for other in others:
            found = against(other, first, [name])
            row += [_em(other, name), shown_difference(found.difference, f", n = {found.questions:,}")]
        rows.append(row)
    title = "Test EM by data set"
    note = (
        '<p class="quiet">EM is the mean over all seeds, with a Wilson interval where there is one; differences are '
        "means over the pairs of runs, with bootstrap intervals.</p>"
    )
    return f"<h2>{title}</h2>{table_html(title, head, rows)}{note}"


def _minus(entry: SeedGroup, first: SeedGroup) -> Cell:
    return f"{entry.label} minus {first.label}", "[95%], common questions n"


def _em(entry: SeedGroup, name: str) -> Cell:
    found = [em for result in entry.results.values() if (em := em_of(result.scores.get(name))) is not None]
    if len(found) < 2:
        return shown_em(found[0]) if found else ""
    return f"{np.mean([em for em, _ in found]):.3f}"


def _runs(entries: Sequence[SeedGroup]) -> str:
    head: list[Cell] = ["run", "group", "seed", "steps", "EM before", ("EM after", "[95%]")]
    head += ["best dev EM", "searches", "s/step"]
    rows: list[list[Cell]] = []
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
                    shown_em(after),
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


def _settings(entries: Sequence[SeedGroup]) -> str:
    """Options whose values differ between the groups."""
    known = [defaults(entry.runs[0].algorithm) for entry in entries]
    groups = [[flat(run.config) for run in entry.runs] for entry in entries]
    keys = dict.fromkeys(key for group in groups for found in group for key in found if not key.startswith(PLACES))
    rows: list[list[Cell]] = []
    for key in keys:
        cells = [dict.fromkeys(shown_value(found[key]) for found in group if key in found) for group in groups]
        if key != "seed" and any(cell != cells[0] for cell in cells):
            missing = ["not recorded" if key in options else "not an option" for options in known]
            rows.append([key, *(" or ".join(cell) or none for cell, none in zip(cells, missing, strict=True))])
    title = "Differences of configuration"
    labels = [entry.label for entry in entries]
    table = table_html(title, ["option", *labels], rows, text=True) if rows else "<p>None, except for paths.</p>"
    return f"<h2>{title}</h2>{table}"
