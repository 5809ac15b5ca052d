"""The report of one run: RUN/report.html. What a run has not logged is left out."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from algorithms.common.evaluation import Row
from algorithms.common.intervals import Difference, paired_difference
from algorithms.common.report.charts import charts_html, css, js, table_html
from algorithms.common.report.page import page, write
from algorithms.common.report.read_run import RunRecord, macro_em, read_run, scored
from algorithms.common.report.run_charts import run_charts, time_parts
from algorithms.common.results import Result

SHOWN = 20_000  # characters of a transcript in a report
SLOWEST = 5
STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); gap: 0.75rem; }
.tiles { margin: 0.5rem 0; padding: 0; }
.tiles > div { border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.75rem; }
.tiles dt { font-size: 0.85rem; color: var(--quiet); }
.tiles dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tiles dd small { display: block; font-size: 0.8rem; color: var(--quiet); }
.warnings li { margin: 0.25rem 0; } .warnings strong { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def run_report(run_dir: Path, *, bar: str = "", script: str = "", version: str = "") -> str:
    """The report as one HTML document. The live view adds `bar` (HTML) and `script`, and names its `version`.

    Raises `ConfigurationError` if the folder is no run.
    """
    run = read_run(run_dir)
    title = f"{run.algorithm}, seed {run.seed}"
    if run.name != f"{run.algorithm}-seed{run.seed}":
        title += f": {run.name}"
    sections = [_headline(run), _warnings(run), _curves(run), _final(run), _slowest(run), _transcripts(run)]
    sections += [_configuration(run), _provenance(run)]
    header = f"<header><h1>{html.escape(title)}</h1>{bar}</header>"
    main = f'<main data-version="{html.escape(version)}">\n' + "\n".join(text for text in sections if text) + "\n</main>"
    return page(title, f"{header}\n{main}", css=css() + STYLE, js=js() + script)


def write_reports(run_dir: Path) -> list[Path]:
    """Write RUN/report.html and, if episodes were recorded, RUN/trajectories.html; returns what was written.

    Raises `ConfigurationError` if the folder is no run.
    """
    written = []
    recorded = sorted((run_dir / "trajectories").glob("step-*.json.gz"))
    if recorded:
        from algorithms.common.report.record import load_recorded
        from algorithms.common.report.trajectories import trajectory_page

        written.append(run_dir / "trajectories.html")  # first: the report links to it
        write(written[-1], trajectory_page([load_recorded(path) for path in recorded], read_run(run_dir).name))
    written.append(run_dir / "report.html")
    write(written[-1], run_report(run_dir))
    return written


# ---------------------------------------------------------------- the sections


def _headline(run: RunRecord) -> str:
    tiles = list(_tiles(run))
    links = []
    if (run.folder / "trajectories.html").is_file():
        links.append('<a href="trajectories.html">Recorded episodes, turn by turn</a>')
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{cells}</dl>' + "".join(f"<p>{link}</p>" for link in links)


def _tiles(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Name, value and note of each headline figure."""
    before, after = (macro_em(result) if result else None for result in (run.before, run.after))
    if before and after and run.before and run.after:
        note = f"95% {_interval(before[1])} before, {_interval(after[1])} after"
        yield "Test EM, before → after", f"{before[0]:.3f} → {after[0]:.3f}", note
        gained = difference(run.before, run.after)
        if gained is not None:
            yield "Gain in test EM", f"{gained.mean:+.3f}", f"95% {_interval(gained.bootstrap, '+.3f')}, over questions"
    elif after or before:
        em, interval = after or before or (0.0, (0.0, 0.0))
        yield f"Test EM, {'after' if after else 'before'} training", f"{em:.3f}", f"95% {_interval(interval)}"
    if run.dev:
        best = max(run.dev, key=lambda row: row["dev/em"])
        yield "Best dev EM", f"{best['dev/em']:.3f}", f"at step {best['step']}"
    finished = run.planned is None or run.done >= run.planned
    note = "" if run.planned is None else ("finished" if finished else "unfinished")
    yield "Steps", f"{run.done}" + (f" of {run.planned}" if run.planned is not None else ""), note
    times = [row["time/step"] for row in run.training if isinstance(row.get("time/step"), (int, float))]
    if times:
        total = timedelta(seconds=round(sum(times)))
        yield "Training time", str(total), f"{np.mean(times):.2f} s a step, without evaluations"
    for name in ("hardware", "device"):
        found = next((r.header[name] for r in (run.after, run.before) if r is not None and r.header.get(name)), None)
        if isinstance(found, str):
            yield name.capitalize(), found, ""


def _warnings(run: RunRecord) -> str:
    items = []
    for message in run.warnings:
        told, _, advice = message.partition(". ")
        items.append(f"<li><strong>{html.escape(told)}.</strong> {html.escape(advice)}</li>")
    if not items:
        return ""
    return f'<h2>Warnings</h2><ul class="warnings">{"".join(items)}</ul>'


def _curves(run: RunRecord) -> str:
    drawn = charts_html(run_charts(run))
    if not drawn:
        return "<h2>Curves</h2><p>No step has been logged yet.</p>"
    return (
        '<h2>Curves</h2><p class="quiet">Point at a curve for its values at that step, in every chart at once; drag to '
        "zoom in, double-click to see all again; the keys below a chart switch its lines.</p><noscript><p>Charts need "
        "JavaScript; what they show stands in words under each.</p></noscript>\n" + drawn
    )


def _final(run: RunRecord) -> str:
    latest = run.after or run.before
    if latest is None:
        return ""
    when = "after training" if run.after else "before training"
    before = run.before if run.after else None
    head = ["data set", "n", *(["EM before", "95%"] if before else []), "EM", "95%"]
    head += [*(["difference", "95%"] if before else []), "F1", "searches", "failed"]
    rows = []
    for name, score in latest.scores.items():
        was = before.scores.get(name) if before else None
        earlier = [f"{was.em:.3f}", _interval(was.em_ci95)] if was else ["", ""]
        gained = _shown(difference(before, latest, [name])) if before else []
        rows.append(
            [name, str(score.n), *(earlier if before else []), f"{score.em:.3f}", _interval(score.em_ci95), *gained]
            + [f"{score.f1:.3f}", f"{score.searches:.2f}", str(score.failed)]
        )
    total = macro_em(latest)
    if total:
        first = macro_em(before) if before else None
        earlier = [f"{first[0]:.3f}", _interval(first[1])] if first else ["", ""]
        members = [score for score in latest.scores.values() if score.n]
        means = [sum(getattr(score, key) for score in members) / len(members) for key in ("f1", "searches")]
        rows.append(
            ["macro-average", str(sum(score.n for score in members)), *(earlier if before else [])]
            + [f"{total[0]:.3f}", _interval(total[1]), *(_shown(difference(before, latest)) if before else [])]
            + [f"{means[0]:.3f}", f"{means[1]:.2f}", str(sum(score.failed for score in latest.scores.values()))]
        )
    title = f"Test questions, greedy, {when}"
    return (
        f"<h2>{title}</h2>{table_html(title, head, rows)}"
        '<p class="quiet">95% intervals are bootstraps over questions; differences are paired by question. They do not '
        "say what another seed would have brought.</p>"
    )


def _slowest(run: RunRecord) -> str:
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
        rows.append(
            [str(row["step"]), f"{row['time/step']:.2f}", *seconds]
            + ["" if not isinstance(tokens, (int, float)) else f"{tokens:.0f}"]
        )
    title = "Slowest steps, seconds"
    return f"<h2>{title}</h2>" + table_html(title, ["step", "all", *parts, "tokens a trajectory"], rows)


def _transcripts(run: RunRecord) -> str:
    paths = run.transcripts
    if not paths:
        return ""
    chosen = dict.fromkeys((paths[0], paths[len(paths) // 2], paths[-1]))
    blocks = []
    for path in chosen:
        step = int(path.stem.removeprefix("step-")) if path.stem.removeprefix("step-").isdigit() else path.stem
        text = path.read_text(encoding="utf-8", errors="replace")
        more = f"\n[the rest is in transcripts/{path.name}]" if len(text) > SHOWN else ""
        blocks.append(
            f'<details id="transcript-{html.escape(path.stem)}"><summary>Step {html.escape(str(step))}</summary>'
            f"<pre>{html.escape(text[:SHOWN] + more)}</pre></details>"
        )
    return "<h2>Sampled episodes</h2>" + "\n".join(blocks)


def _configuration(run: RunRecord) -> str:
    if not run.config:
        return ""
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return (
        '<h2>Configuration</h2><details id="configuration"><summary>config.yaml</summary>'
        f"<pre>{html.escape(text)}</pre></details>"
    )


def _provenance(run: RunRecord) -> str:
    """What else the result files say: fingerprint, versions."""
    known = {"algorithm", "seed", "step", "macro_average", "macro_averages", "hardware", "device"}
    header: Mapping[str, Any] = next((r.header for r in (run.after, run.before) if r is not None), {})
    facts = {key: value for key, value in header.items() if key not in known}
    if not facts:
        return ""
    text = json.dumps(facts, indent=2, ensure_ascii=False, default=str)
    return (
        '<h2>What decided the figures</h2><details id="fingerprint"><summary>Fingerprint and versions</summary>'
        f"<pre>{html.escape(text)}</pre></details>"
    )


# ---------------------------------------------------------------- figures


def difference(before: Result, after: Result, names: Sequence[str] | None = None) -> Difference | None:
    """EM after less before on the questions that both scored, macro-averaged over the data sets `names` (default: all).

    None if there is no such question.
    """
    pairs = {
        name: pair
        for name, pair in common(scored(before), scored(after)).items()
        if (names is None or name in names) and pair[0]
    }
    if not pairs:
        return None
    ours, theirs = ({name: np.array([[r.em for r in pair[i]]]) for name, pair in pairs.items()} for i in (1, 0))
    return paired_difference(ours, theirs)


def common(a: Mapping[str, list[Row]], b: Mapping[str, list[Row]]) -> dict[str, tuple[list[Row], list[Row]]]:
    """By data set, the rows of the questions that are in both, in the order of the first."""
    found = {}
    for name in a:
        others = {row.id: row for row in b.get(name, ())}
        mine = [row for row in a[name] if row.id in others]
        found[name] = (mine, [others[row.id] for row in mine])
    return found


def _shown(found: Difference | None) -> list[str]:
    return ["", ""] if found is None else [f"{found.mean:+.3f}", _interval(found.bootstrap, "+.3f")]


def _interval(interval: tuple[float, float], form: str = ".3f") -> str:
    return f"{interval[0]:{form}} to {interval[1]:{form}}"

