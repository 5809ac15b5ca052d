"""Do runs that are killed at random times and resumed reproduce the uninterrupted result?

    python -m benchmarks.killed --kills 20

Runs receive SIGKILL at times drawn uniformly over the duration of the uninterrupted run (start, evaluation, steps,
checkpoints and the end). Everything in metrics.jsonl except times must be equal, and the final weights byte for byte.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tyro

from algorithms.common.run.metrics_log import read_metrics
from benchmarks.measure import Line
from retrievers.random_streams import random_stream

ROOT = Path(__file__).parent.parent


def lines(kills: int = 20, steps: int = 8) -> list[Line]:
    """The share of killed runs that reproduce the uninterrupted result."""
    rng = random_stream("moments of kills", 0)
    moments: Counter[str] = Counter()
    same = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        _start(folder / "whole", steps).wait()
        duration = time.perf_counter() - start
        expected = _left(folder / "whole")
        for number in range(kills):
            run_dir = folder / f"killed-{number}"
            process = _start(run_dir, steps)
            time.sleep(float(rng.uniform(0, duration)))
            moments[_moment(run_dir)] += 1
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            code = _start(run_dir, steps).wait()
            same += code == 0 and _left(run_dir) == expected
    detail = f"{kills} kills within {duration:.1f} s: " + ", ".join(f"{n} {moment}" for moment, n in moments.items())
    return [
        Line("runs killed and started again that end as an uninterrupted one", same / kills, "", 1.0, detail=detail)
    ]


def _start(run_dir: Path, steps: int) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "algorithms/ig_grpo.py", "--steps", str(steps), "--eval-every", "2", "--eval-limit", "1"),
        *("--save-every", "1", "--rollout.questions-per-step", "4", "--rollout.group-size", "4", "--threads", "1"),
        *("--run-dir", str(run_dir)),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _moment(run_dir: Path) -> str:
    """The phase that a run is in."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    if not rows:
        return "before the first record"
    if (run_dir / "test_after.json").is_file():
        return "after the last evaluation"
    return "between steps 1 and the last" if rows[-1]["step"] else "in the first step"


def _left(run_dir: Path) -> tuple[list[dict[str, Any]], bytes]:
    """The results that must be equal: metrics without times, and the final weights."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    metrics = [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]
    weights = run_dir / "policy" / "model.safetensors"
    return metrics, weights.read_bytes() if weights.is_file() else b""


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} {measured.detail}")
