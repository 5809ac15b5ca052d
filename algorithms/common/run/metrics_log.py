"""Logs of a run: metrics.jsonl, TensorBoard and transcripts.

RUN_DIR/config.yaml  metrics.jsonl  tensorboard/  transcripts/step-*.txt  learning_curve.png
With trackers (`trackers.py`): tracker_id, wandb/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from algorithms.common.base.files import atomic_write
from algorithms.common.run.evaluation_metrics import with_split_names
from algorithms.common.run.trackers import Tracker
from igsearch_env.stepper import render
from igsearch_env.trajectory import Trajectory


class MetricsLog:
    """metrics.jsonl, TensorBoard and trackers: records of training steps and of evaluations.

    Opening a log at step s drops the rows of step s and later, and an incomplete last line, so that a resumed run
    leaves the same file as an uninterrupted one. Trackers keep what they have received.
    """

    def __init__(self, run_dir: Path, first_step: int, trackers: Sequence[Tracker] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] < first_step]
        with atomic_write(self.path, durable=True) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        self.trackers = trackers

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record and flush it. TensorBoard and trackers receive only the numbers."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, step)
        for tracker in self.trackers:
            tracker.write(step, numbers)

    def close(self, failed: bool = False) -> None:
        """Flush and close; `failed` is passed on to the trackers."""
        self.file.close()
        self.writer.close()
        for tracker in self.trackers:
            tracker.close(failed)


def read_metrics(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """The records of a metrics file up to the first damaged line, such as an incomplete last line.

    `last_step`: number of steps of the run; identifies the evaluations of the earliest files (`with_split_names`).
    """
    rows, damaged = scan_metrics(path)
    return with_split_names(rows[: damaged[0] - 1] if damaged else rows, last_step)


def scan_metrics(path: Path) -> tuple[list[Any], list[int]]:
    """The content of each line of a metrics file, and the numbers (from 1) of the lines that are not JSON.

    Both are empty if there is no file.
    """
    rows: list[Any] = []
    damaged: list[int] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            damaged.append(number)
    return rows, damaged


def write_transcripts(path: Path, trajectories: Sequence[Trajectory], count: int = 4) -> None:
    """Write the first `count` episodes as plain text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(render(t) for t in trajectories[:count]) + "\n", encoding="utf-8")
