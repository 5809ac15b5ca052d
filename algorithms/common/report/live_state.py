"""What a run is doing, from its folder: running, silent, finished or interrupted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from algorithms.common.report.charts import number
from algorithms.common.run.saved_run import SavedRun
from retrievers.lock import in_use

SILENT_SECONDS = 60.0  # and `SILENT_STEPS` times the usual time of a step: then a running run is called silent
SILENT_STEPS = 5
RECENT = 20  # steps that the usual time is taken from


@dataclass(frozen=True)
class RunState:
    """What a run is doing, as a word for the page's style and as a sentence; seconds since its last change."""

    word: Literal["running", "silent", "finished", "interrupted"]
    text: str
    age: float


def run_state(run: SavedRun) -> RunState:
    """The state of a run now: its files say how far it has come, its lock whether its process still runs."""
    age = max(0.0, time.time() - _last_change(run.folder))
    done = run.planned is not None and run.done >= run.planned
    place = f"at step {run.done}" + ("" if run.planned is None else f" of {run.planned}")
    if not run.done:
        place = "before the first step"
    elif done:
        place = f"in the evaluation after step {run.done}"
    if done and run.after is not None:
        return RunState("finished", f"Finished: {run.done} steps", age)
    if not in_use(run.folder):
        return RunState("interrupted", f"Interrupted {place}; the command that started the run resumes it", age)
    usual = _usual_step(run)
    if usual is not None and age > max(SILENT_SECONDS, SILENT_STEPS * usual):
        detail = f"nothing has been logged for {_shown(age)}; a step usually takes {_shown(usual)}, evaluations longer"
        return RunState("silent", f"Running, but silent {place}: {detail}", age)
    return RunState("running", f"Running, {place}", age)


def _last_change(folder: Path) -> float:
    """When the run last logged anything, in seconds since 1970; 0 if it has no file."""
    times = [0.0]
    for name in ("config.yaml", "metrics.jsonl", "test_before.json", "test_after.json"):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _usual_step(run: SavedRun) -> float | None:
    times = [number(row.get("time/step")) for row in run.training[-RECENT:]]
    known = [seconds for seconds in times if seconds is not None]
    return median(known) if known else None


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
