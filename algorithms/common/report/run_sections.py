"""The sections of the report of one run, as HTML; "" where the run has logged nothing for a section."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import yaml

from algorithms.common.evaluation.intervals import Difference
from algorithms.common.evaluation.scores import Score
from algorithms.common.report.charts import charts_html, table_html, width_for
from algorithms.common.report.figures import Em, difference, macro_em, shown, shown_difference
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
            yield "Gain in test EM", f"{gained.mean:+.3f}", f"95% {shown(gained.bootstrap, '+.3f')}, over questions"
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
    for name in ("hardware", "device"):
        found = next((r.header[name] for r in (run.after, run.before) if r is not None and r.header.get(name)), None)
        if isinstance(found, str):
            yield name.capitalize(), found, ""


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
    both = run.before is not None and run.after is not None
    head = ["data set", "n", *(["EM before", "95%"] if both else []), "EM", "95%"]
    head += [*(["difference", "95%"] if both else []), "F1", "searches", "failed"]

    def row(
        name: str, em: Em | None, before: Em | None, gained: Difference | None, scores: Sequence[Score]
    ) -> list[str]:
        members = [score for score in scores if score.n]
        means = [np.mean([getattr(score, key) for score in members]) if members else None for key in ("f1", "searches")]
        cells = [name, str(sum(score.n for score in members)), *(_em(before) if both else []), *_em(em)]
        cells += [*(shown_difference(gained) if both else []), *("" if m is None else f"{m:.3f}" for m in means)]
        return [*cells, str(sum(score.failed for score in scores))]

    def against(names: Sequence[str] | None = None) -> Difference | None:
        return difference([run.after], [run.before], names) if run.after and run.before else None

    rows = []
    for name, score in latest.scores.items():
        was = run.before.scores.get(name) if run.before else None
        rows.append(row(name, _pair(score), _pair(was), against([name]), [score]))
    first = macro_em(run.before) if run.before else None
    rows.append(row("macro-average", macro_em(latest), first, against(), list(latest.scores.values())))
    title = f"Test questions, greedy decoding, {'after' if run.after else 'before'} training"
    return (
        f"<h2>{title}</h2>{table_html(title, head, rows)}"
        '<p class="quiet">95% intervals are bootstrap intervals over questions; differences are paired by question. '
        "The intervals do not cover the variation between seeds.</p>"
    )


def _pair(score: Score | None) -> Em | None:
    return (score.em, score.em_ci95) if score is not None and score.n else None


def _em(em: Em | None) -> list[str]:
    return ["", ""] if em is None else [f"{em[0]:.3f}", shown(em[1])]


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


def configuration(run: SavedRun) -> str:
    """config.yaml."""
    if not run.config:
        return ""
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return (
        '<h2>Configuration</h2><details id="configuration"><summary>config.yaml</summary>'
        f"<pre>{html.escape(text)}</pre></details>"
    )


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
