"""The sections of the report of one run, as HTML; "" where the run has logged nothing for a section."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from math import isnan, nan
from typing import Any

import numpy as np

from algorithms.common.evaluation.intervals import Difference
from algorithms.common.evaluation.scores import MacroAverage, Score
from algorithms.common.report.charts import Cell, charts_html, table_html, width_for
from algorithms.common.report.figures import Em, difference, em_of, macro_em, shown, shown_difference, shown_em
from algorithms.common.report.run_charts import MANY, run_charts, time_parts
from algorithms.common.run.saved_run import SavedRun

SHOWN = 20_000  # characters of a transcript in a report
SLOWEST = 5
STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.5rem), 1fr)); gap: 0.75rem; }
.tiles { margin: 0.5rem 0; padding: 0; }
.tiles > div { border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.75rem; }
@media (min-width: 22rem) { .tiles > div:first-child { grid-column: span 2; } }
.tiles dt { font-size: 0.85rem; color: var(--quiet); }
.tiles dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tiles dd small { display: block; font-size: 0.8rem; color: var(--quiet); }
.warnings li { margin: 0.25rem 0; } .warnings strong { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def headline(run: SavedRun) -> str:
    """Tiles with the figures of the run."""
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>"
        for name, value, note in _tiles(run)
    )
    return f'<dl class="tiles">{cells}</dl>'


def _tiles(run: SavedRun) -> Iterator[tuple[str, str, str]]:
    """Name, value and note of each summary tile."""
    before, after = (macro_em(result) if result else None for result in (run.before, run.after))
    if before and after and run.before and run.after:
        note = f"95% {shown(before[1])} before, {shown(after[1])} after"
        yield "Test EM, before → after", f"{before[0]:.3f} → {after[0]:.3f}", note
        gained = difference([run.after], [run.before])
        if gained is not None:
            yield "Gain in test EM", f"{gained.mean:+.3f}", f"95% {shown(gained.bootstrap, '+.3f')}, paired bootstrap"
    for when, em in (("after", after), ("before", before)):
        if em and not (before and after):
            yield f"Test EM, {when} training", f"{em[0]:.3f}", f"95% {shown(em[1])}"
    if run.dev:
        best = max(run.dev, key=lambda row: row["dev/em"])
        yield "Best dev EM", f"{best['dev/em']:.3f}", f"at step {best['step']}"
    finished = run.planned is None or run.done >= run.planned
    note = "" if run.planned is None else ("finished" if finished else "unfinished")
    if note == "finished" and run.after is None:
        note = "done, not evaluated yet"
    yield "Steps", f"{run.done}" + (f" of {run.planned}" if run.planned is not None else ""), note
    times = [row["time/step"] for row in run.training if isinstance(row.get("time/step"), (int, float))]
    if times:
        total = timedelta(seconds=round(sum(times)))
        yield "Training time", str(total), f"{np.mean(times):.2f} s/step, without evaluations"


def warning_list(run: SavedRun) -> str:
    """What the run was warned of."""
    items = []
    for message in run.warnings:
        warning, _, advice = message.partition(". ")
        items.append(f"<li><strong>{html.escape(warning)}.</strong> {html.escape(advice)}</li>")
    if not items:
        return ""
    return f'<h2>Warnings</h2><ul class="warnings">{"".join(items)}</ul>'


def curves(run: SavedRun) -> str:
    """The charts of the metrics."""
    drawn = charts_html(run_charts(run))
    if not drawn:
        return "<h2>Curves</h2><p>No step has been logged yet.</p>"
    steps = len(run.training)
    bold = f" Bold lines are means over {width_for(steps)} steps, faint lines single steps." if steps > MANY else ""
    return (
        '<h2>Curves</h2><p class="quiet">Hover over a chart to show the values of that step in all charts; drag to '
        f"zoom in, double-click to reset the zoom; click a legend entry to hide or show its line.{bold}</p>"
        "<noscript><p>Charts need JavaScript; a text summary is below each chart.</p></noscript>\n" + drawn
    )


def final_scores(run: SavedRun) -> str:
    """One row per data set: EM after training and, if both were evaluated, EM before training and the difference."""
    latest = run.after or run.before
    if latest is None:
        return ""
    before = run.before if run.after is not None else None
    heads = {"f1": "F1", "searches": "searches"}
    if any(not isnan(score.answer_found) for score in latest.scores.values()):
        heads |= {"answer_found": "answer found", "em_found": "EM where found"}

    def row(
        name: str, scores: Mapping[str, Score], em: Em | None, was: Em | None, gained: Difference | None
    ) -> list[Cell]:
        members = {name: score for name, score in scores.items() if score.n}
        average = MacroAverage.of(members) if members else None
        means = [nan if average is None else getattr(average, key) for key in heads]
        cells = [shown_em(was), shown_em(em), shown_difference(gained)] if before else [shown_em(em)]
        numbers = ["" if isnan(mean) else f"{mean:.3f}" for mean in means]
        n, failed = sum(score.n for score in members.values()), sum(score.failed for score in scores.values())
        return [name, *cells, *numbers, f"{n:,}", str(failed)]

    def gain(names: Sequence[str] | None = None) -> Difference | None:
        return difference([latest], [before], names) if before else None

    rows = [
        row(name, {name: score}, em_of(score), em_of(before.scores.get(name)) if before else None, gain([name]))
        for name, score in latest.scores.items()
    ]
    rows.append(row("macro-average", latest.scores, macro_em(latest), macro_em(before) if before else None, gain()))
    title = f"Test questions, greedy decoding, {'after' if run.after else 'before'} training"
    ems: list[Cell] = [("EM", "[95%]")]
    if before:
        ems = [("EM before", "[95%]"), ("EM after", "[95%]"), ("difference", "[95%, paired]")]
    head = ["data set", *ems, *heads.values(), "questions", "failed"]
    limit = latest.header.get("test_limit")
    some = f"Only the first {limit} test questions of each data set were evaluated (test_limit). " if limit else ""
    return (
        f"<h2>{title}</h2>{table_html(title, head, rows)}"
        f'<p class="quiet">{html.escape(some)}Intervals of EM are Wilson intervals over the questions of a data set; '
        "that of the macro-average combines them (Zou et al., 2009). Intervals of differences are bootstrap intervals, "
        "paired by question; there is none where the difference of every question is the same. The intervals do not "
        "cover the variation between seeds. Questions whose retrieval failed are counted apart. An answer is found if "
        "it stands in the passages that the policy read.</p>"
    )


def slowest_steps(run: SavedRun) -> str:
    """The steps that took most time, part by part."""
    parts = time_parts(run.training)
    steps = [row for row in run.training if isinstance(row.get("time/step"), (int, float))]
    if not steps or not parts:
        return ""
    slowest = sorted(steps, key=lambda row: -row["time/step"])[:SLOWEST]
    place = {row["step"]: place for place, row in enumerate(run.training)}
    rows = []
    for row in slowest:
        cells = [values[place[row["step"]]] for values in parts.values()]
        seconds = ["" if value is None else f"{value:.2f}" for value in cells]
        tokens = row.get("length/total_mean")
        length = f"{tokens:.0f}" if isinstance(tokens, (int, float)) else ""
        rows.append([str(row["step"]), f"{row['time/step']:.2f}", *seconds, length])
    title = "Slowest steps, seconds"
    return f"<h2>{title}</h2>" + table_html(title, ["step", "total", *parts, "tokens per trajectory"], rows)


def sampled_episodes(run: SavedRun) -> str:
    """Sampled episodes of the first, a middle and the last step."""
    paths = run.transcripts
    if not paths:
        return ""
    chosen = dict.fromkeys((paths[0], paths[len(paths) // 2], paths[-1]))
    blocks = []
    for path in chosen:
        step = int(path.stem.removeprefix("step-")) if path.stem.removeprefix("step-").isdigit() else path.stem
        text = path.read_text(encoding="utf-8", errors="replace")
        more = f"\n[truncated; see transcripts/{path.name}]" if len(text) > SHOWN else ""
        blocks.append(
            f'<details id="transcript-{html.escape(path.stem)}"><summary>Step {html.escape(str(step))}</summary>'
            f"<pre>{html.escape(text[:SHOWN] + more)}</pre></details>"
        )
    return "<h2>Sampled episodes</h2>" + "\n".join(blocks)


def provenance(run: SavedRun) -> str:
    """The other facts in the result files: fingerprint, versions."""
    known = {"algorithm", "seed", "step", "macro_average", "macro_averages", "hardware", "device"}
    header: Mapping[str, Any] = next((r.header for r in (run.after, run.before) if r is not None), {})
    facts = {key: value for key, value in header.items() if key not in known}
    if not facts:
        return ""
    text = json.dumps(facts, indent=2, ensure_ascii=False, default=str)
    return (
        '<h2>Provenance</h2><details id="fingerprint"><summary>Fingerprint and versions</summary>'
        f"<pre>{html.escape(text)}</pre></details>"
    )
