"""The default training run as a user starts it: minutes, exact match, peak memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Line, peak_gigabytes


def lines(repeats: int) -> list[Line]:
    """Measure a single run; `repeats` is not used."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "algorithms/ig_grpo.py", "--run-dir", str(run_dir)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent,
        )
        minutes = (time.perf_counter() - start) / 60
        peak = peak_gigabytes(resource.RUSAGE_CHILDREN)
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    em = [row["test/em"] for row in rows if "test/em" in row]
    return [
        Line("default training run", minutes, "min", 3, at_most=True),
        Line("greedy test EM before it", em[0], "", 0.30, at_most=True),
        Line("greedy test EM after it", em[-1], "", 0.65),
        Line("largest process of this benchmark so far, the training run included", peak, "GB", 2, at_most=True),
    ]
