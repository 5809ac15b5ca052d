"""Two processes over one: steps of the same batches, each process on one core.

    python -m benchmarks.processes

Whole runs in processes of their own, alternated; the median step without the first two counts. Rollouts, information
gain and the update are divided; what is computed of a whole buffer (advantages, logs) is not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

from algorithms.common.logs import read_metrics
from benchmarks.measure import Line

ROOT = Path(__file__).parent.parent
STEPS = 7
WARM_UP = 2
PARTS = ("rollout", "information_gain", "update")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def lines(repeats: int = 3) -> list[Line]:
    """The median of `repeats` rounds counts."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            one = _run(Path(folder) / f"one-{number}", ())
            two = _run(Path(folder) / f"two-{number}", TWO)
            rounds.append((one, two))
    ratios = [one["step"] / two["step"] for one, two in rounds]
    detail = "; ".join(
        f"{part} {statistics.median(one[part] for one, _ in rounds):.2f} -> "
        f"{statistics.median(two[part] for _, two in rounds):.2f} s"
        for part in ("step", *PARTS)
    )
    detail += f"; {min(ratios):.2f} to {max(ratios):.2f} over {repeats} rounds"
    return [Line("IG-GRPO step, two processes over one", statistics.median(ratios), target=1.6, detail=detail)]


def _run(folder: Path, launcher: tuple[str, ...]) -> dict[str, float]:
    """Median seconds of a step and of its parts."""
    command = [
        *(sys.executable, *launcher, "algorithms/ig_grpo.py", "--steps", str(STEPS), "--eval-every", "0"),
        *("--save-every", "100", "--threads", "1", "--run-dir", str(folder)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row][WARM_UP:]
    return {part: statistics.median(row[f"time/{part}"] for row in rows) for part in ("step", *PARTS)}


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} {measured.detail}")
