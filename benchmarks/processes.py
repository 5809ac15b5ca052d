"""Speed-up of two processes over one: steps on the same batches, each process on one core.

    python -m benchmarks.processes

Complete runs in separate processes, alternating, without the first two steps. Rollouts, information gain and the
update are distributed; computations on the whole buffer (advantages, logs) are not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

from algorithms.common.run.metrics_log import read_metrics
from benchmarks.measure import Line

ROOT = Path(__file__).parent.parent
STEPS = 8
WARM_UP = 2
PARTS = ("step", "rollout", "information_gain", "update")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def lines(repeats: int = 3) -> list[Line]:
    """Ratio of each step to the same step of the other side, in `repeats` rounds; the median is reported."""
    ratios: dict[str, list[float]] = {part: [] for part in PARTS}
    seconds: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            one = _run(Path(folder) / f"one-{number}", ())
            two = _run(Path(folder) / f"two-{number}", TWO)
            for part in PARTS:
                pairs = [(a[f"time/{part}"], b[f"time/{part}"]) for a, b in zip(one, two, strict=True)]
                seconds[part] += pairs
                ratios[part] += [alone / together for alone, together in pairs]
    detail = "; ".join(
        f"{part} {statistics.median(alone for alone, _ in seconds[part]):.2f} -> "
        f"{statistics.median(together for _, together in seconds[part]):.2f} s"
        for part in PARTS
    )
    low, _, high = statistics.quantiles(ratios["step"], n=4)
    detail += f"; middle half of {len(ratios['step'])} ratios {low:.2f} to {high:.2f}"
    return [Line("IG-GRPO step, two processes over one", statistics.median(ratios["step"]), target=1.6, detail=detail)]


def _run(folder: Path, launcher: tuple[str, ...]) -> list[dict[str, float]]:
    """Metrics of each step after the warm-up."""
    command = [
        *(sys.executable, *launcher, "algorithms/ig_grpo.py", "--steps", str(STEPS), "--eval-every", "0"),
        *("--save-every", "100", "--threads", "1", "--run-dir", str(folder)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row][WARM_UP:]


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} {measured.detail}")
