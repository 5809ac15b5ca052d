"""Do runs that are killed at random times and resumed reproduce the uninterrupted result?

    python -m benchmarks.killed --kills 20

Runs receive SIGKILL at times drawn uniformly over the duration of the uninterrupted run (start, evaluation, steps,
checkpoints and the end); every fourth one while a checkpoint is written, and every other fourth in an evaluation. With
`--stop-seconds`, another run is stopped (SIGSTOP) for so long; with `--away-seconds`, the search service of another run
is killed and started again after so long. Everything in metrics.jsonl except times must be equal, and the final weights
byte for byte.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import tyro

from algorithms.common.run.metrics_log import read_metrics
from benchmarks.measure import Line
from igsearch_env.world.bundled import bundled_world
from retrievers.corpus import write_corpus
from retrievers.random_streams import random_stream

ROOT = Path(__file__).parent.parent


def lines(kills: int = 20, steps: int = 8, stop_seconds: float = 0.0, away_seconds: float = 0.0) -> list[Line]:
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
            moments[_wait(run_dir, process, number % 4, float(rng.uniform(0, duration)), duration)] += 1
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            code = _start(run_dir, steps).wait()
            same += code == 0 and _left(run_dir) == expected
        stopped = _stopped(folder / "stopped", steps, stop_seconds) == expected if stop_seconds else None
        served = _served(folder, steps, away_seconds) if away_seconds else None
    detail = f"{kills} kills within {duration:.1f} s: " + ", ".join(f"{n} {moment}" for moment, n in moments.items())
    found = [
        Line("runs killed and started again that end as an uninterrupted one", same / kills, "", 1.0, detail=detail)
    ]
    if stopped is not None:
        name = f"a run stopped for {stop_seconds:g} s ends as an uninterrupted one"
        found.append(Line(name, float(stopped), "", 1.0))
    if served is not None:
        name = f"a run whose search service is away for {away_seconds:g} s ends as one whose service is not"
        found.append(Line(name, float(served), "", 1.0))
    return found


def _wait(run_dir: Path, process: subprocess.Popen[bytes], kind: int, seconds: float, duration: float) -> str:
    """Wait for the moment to kill a run; says which one it is. A moment that does not come is one in time."""
    if kind not in (1, 3):
        time.sleep(seconds)
        return _moment(run_dir)
    deadline = time.perf_counter() + 3 * duration
    while process.poll() is None and time.perf_counter() < deadline:
        if kind == 1 and any((run_dir / "checkpoints").glob(".partial-*")):
            return "inside a checkpoint"
        if kind == 3 and _validating(run_dir):
            time.sleep(0.02)
            return "inside an evaluation"
        time.sleep(0.0005)
    return "after its end"


def _validating(run_dir: Path) -> bool:
    """Whether step 2 has been logged, and the evaluation that follows it has not."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    return bool(rows) and rows[-1]["step"] == 2 and "reward" in rows[-1]


def _stopped(run_dir: Path, steps: int, seconds: float) -> tuple[list[dict[str, Any]], bytes]:
    """What a run leaves that was stopped for a while in its second step."""
    process = _start(run_dir, steps)
    _wait_for_rows(run_dir, process, 2)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)
    process.wait()
    return _left(run_dir)


def _served(folder: Path, steps: int, seconds: float) -> bool:
    """Whether a run whose search service is killed in its second step and restarted leaves what another run leaves."""
    left, corpus = [], folder / "corpus.jsonl"
    write_corpus(bundled_world().passages, corpus)
    for name in ("served", "away"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        service, run_dir = _serve(corpus, port), folder / name
        try:
            process = _start(run_dir, steps, "--env.corpus", f"http://127.0.0.1:{port}")
            if name == "away":
                _wait_for_rows(run_dir, process, 2)
                service.kill()
                service.wait()
                time.sleep(seconds)
                service = _serve(corpus, port)
            process.wait()
        finally:
            service.kill()
            service.wait()
        left.append(_left(run_dir))
    return bool(left[0][1]) and left[0] == left[1]


def _serve(corpus: Path, port: int) -> subprocess.Popen[bytes]:
    """A search service of a corpus, once it answers."""
    command = [sys.executable, "-m", "retrievers.server", "--corpus", str(corpus), "--port", str(port)]
    service = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.perf_counter() + 120
    while service.poll() is None and time.perf_counter() < deadline:
        with suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
            return service
        time.sleep(0.1)
    raise RuntimeError(f"the search service does not answer at port {port}")


def _wait_for_rows(run_dir: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Wait until a run has logged so many rows, or has ended."""
    while process.poll() is None and len(read_metrics(run_dir / "metrics.jsonl")) < count:
        time.sleep(0.01)


def _start(run_dir: Path, steps: int, *options: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "algorithms/ig_grpo.py", "--steps", str(steps), "--eval-every", "2", "--eval-limit", "1"),
        *("--save-every", "1", "--rollout.questions-per-step", "4", "--rollout.group-size", "4", "--threads", "1"),
        *("--run-dir", str(run_dir), *options),
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
