"""Logs of a run: metrics.jsonl, TensorBoard and transcripts.

RUN_DIR/config.yaml  metrics.jsonl  tensorboard/  transcripts/step-*.txt  learning_curve.png
With trackers (`trackers.py`): tracker_id, wandb/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from algorithms.common.base.files import atomic_write
from algorithms.common.run.evaluation_metrics import with_split_names
from algorithms.common.run.trackers import Tracker
from igsearch_env.errors import ConfigurationError
from igsearch_env.stepper import render
from igsearch_env.trajectory import Trajectory
from retrievers.reading import FileError, parse_json, read_lines

# Metrics without a "/" in their name that reports compute with.
NUMBERS = ("step", "reward", "attempts", "searches", "all_fail", "retrieval_failures")


class MetricsLog:
    """metrics.jsonl, TensorBoard and trackers: records of training steps and of evaluations.

    Opening a log at step s drops the rows of step s and later, and an incomplete last line, so that a resumed run
    leaves the same file as an uninterrupted one. Trackers keep what they have received.
    """

    def __init__(self, run_dir: Path, first_step: int, trackers: Sequence[Tracker] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "metrics.jsonl"
        kept = rows_before(self.path, first_step)
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
    intact = takewhile(lambda row: row is not None, scan_metrics(path)[0])
    return with_split_names([row for row in intact if row is not None], last_step)


def rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """The records of the steps before `step`, which a run that resumes there keeps.

    Raises `ConfigurationError` if one of them is lost: a line is damaged, and records of such steps follow.
    """
    rows, reasons = scan_metrics(path)
    kept = [number for number, row in enumerate(rows, start=1) if row is not None and row["step"] < step]
    lost = next((reason for number, reason in reasons.items() if kept and number < kept[-1]), None)
    if lost is not None:
        raise ConfigurationError(f"{lost}; restore the line, or delete it to go on without this record")
    return [row for row in rows if row is not None and row["step"] < step]


def scan_metrics(path: Path) -> tuple[list[dict[str, Any] | None], dict[int, str]]:
    """The record of each line of a metrics file, and what is wrong with the damaged lines, by their numbers from 1.

    A damaged line has None as its record. Both are empty if there is no file.
    """
    rows: list[dict[str, Any] | None] = []
    damaged: dict[int, str] = {}
    for number, line in read_lines(path) if path.exists() else ():
        try:
            rows.append(_record(parse_json(line, f"{path}, line {number}"), f"{path}, line {number}"))
        except FileError as error:
            rows.append(None)
            damaged[number] = str(error)
    return rows, damaged


def _record(row: Any, where: str) -> dict[str, Any]:
    """A line of metrics, if it is one: a whole number as `step`, and numbers."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise FileError(where, "no record of metrics (an object with a whole number as step)")
    for key, value in row.items():
        number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**53)
        # Values of other names may be text, which a run with callbacks of its own may log.
        if not number and (isinstance(value, (int, list, dict)) or "/" in key or key in NUMBERS):
            raise FileError(where, f"{key} is {str(value)[:60]!r}, not a number")
    return row


def write_transcripts(path: Path, trajectories: Sequence[Trajectory], count: int = 4) -> None:
    """Write the first `count` episodes as plain text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(render(t) for t in trajectories[:count]) + "\n", encoding="utf-8")
