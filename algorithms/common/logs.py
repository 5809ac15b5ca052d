"""What a run leaves for people: metrics.jsonl, TensorBoard, transcripts, the final table and the learning curve.

RUN_DIR/config.yaml  metrics.jsonl  tensorboard/  transcripts/step-*.txt  learning_curve.png
With trackers (`trackers.py`): tracker_id, wandb/
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from algorithms.common.evaluation import Score, macro_average
from algorithms.common.trackers import Tracker
from igsearch_env.engine import render
from igsearch_env.trajectory import Trajectory


class MetricsLog:
    """metrics.jsonl, TensorBoard and trackers: records of training steps and of evaluations.

    Opening a log at step s drops what a crashed run wrote at or after s, and a half-written last line, so that a
    resumed run leaves the same file as an uninterrupted one. Trackers keep what they were sent.
    """

    def __init__(self, run_dir: Path, first_step: int, trackers: Sequence[Tracker] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] < first_step]
        partial = self.path.with_name("metrics.jsonl.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(partial, self.path)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        self.trackers = trackers

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record; it is on disk when this returns. Only numbers go to TensorBoard and trackers."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, step)
        for tracker in self.trackers:
            tracker.write(step, numbers)

    def close(self, failed: bool = False) -> None:
        """Flush and close; `failed` is what trackers are told of the run."""
        self.file.close()
        self.writer.close()
        for tracker in self.trackers:
            tracker.close(failed)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, without a half-written last line. No file: no records."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_transcripts(path: Path, trajectories: Sequence[Trajectory], count: int = 4) -> None:
    """The first `count` episodes as plain text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(render(t) for t in trajectories[:count]) + "\n", encoding="utf-8")


def score_metrics(scores: dict[str, Score]) -> dict[str, float]:
    """Scores under the names of the metrics file."""
    metrics = {"eval/em": macro_average(scores)}
    metrics |= {f"eval/em/{name}": s.em for name, s in scores.items()}
    metrics["eval/f1"] = sum(s.f1 for s in scores.values()) / len(scores)
    metrics["eval/searches"] = sum(s.searches for s in scores.values()) / len(scores)
    return metrics


def print_scores(console: Console, title: str, before: dict[str, Score] | None, after: dict[str, Score]) -> None:
    """A table of EM by data set, with 95% intervals over questions."""
    table = Table(title=title)
    table.add_column("data set", no_wrap=True)
    for name in ("n", *(("before",) if before else ()), "EM", "95% CI", "F1", "searches"):
        table.add_column(name, justify="right", no_wrap=True)
    for dataset, s in after.items():
        was = (f"{before[dataset].em:.3f}" if dataset in before else "",) if before else ()
        interval = f"{s.em_ci95[0]:.2f} to {s.em_ci95[1]:.2f}"
        table.add_row(dataset, str(s.n), *was, f"{s.em:.3f}", interval, f"{s.f1:.3f}", f"{s.searches:.2f}")
    mean_before = (f"{macro_average(before):.3f}",) if before else ()
    n = str(sum(s.n for s in after.values()))
    f1 = sum(s.f1 for s in after.values()) / len(after)
    searches = sum(s.searches for s in after.values()) / len(after)
    table.add_section()
    table.add_row("macro-average", n, *mean_before, f"{macro_average(after):.3f}", "", f"{f1:.3f}", f"{searches:.2f}")
    console.print(table)


def plot_learning_curve(run_dir: Path, title: str) -> None:
    """learning_curve.png: training reward and evaluation EM against the step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(run_dir / "metrics.jsonl")
    figure, axis = pyplot.subplots(figsize=(7, 4))
    training = [(r["step"], r["reward"]) for r in rows if "reward" in r]
    evaluation = [(r["step"], r["eval/em"]) for r in rows if "eval/em" in r]
    if training:
        axis.plot(*zip(*training, strict=True), alpha=0.6, label="training reward (sampled)")
    if evaluation:
        axis.plot(*zip(*evaluation, strict=True), marker="o", label="evaluation EM (greedy)")
    axis.set(xlabel="step", ylabel="mean over questions", ylim=(0, 1), title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(run_dir / "learning_curve.png", dpi=120)
    pyplot.close(figure)
