"""Learning curves and seconds per step with rollouts during updates, at several values of rollout.max_staleness.

    python examples/staleness.py                                               0, 1 and 2 updates, five seeds
    python examples/staleness.py --server-url http://127.0.0.1:8001            rollouts by a vLLM server
    python examples/staleness.py --options="--loss.importance-sampling-cap None" --output runs/uncorrected

All runs have equally many rollouts of the same questions. They are trained one after another, so that their times can
be compared; nothing else should be running. With the built-in decoder on a CPU, runs have one thread (`--threads` among
the options changes it), which leaves a second processor to the rollouts; a server has processors of its own. An
interrupted study is resumed by the same command. The output folder receives what `compare_algorithms.py` writes, and
times.jsonl with a line per run, as each ends.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.run.metrics_log import read_metrics
from algorithms.comparison.run_summary import RunSummary
from algorithms.comparison.seeds_report import write_report
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.program import ends_in_one_line

sys.path.insert(0, str(Path(__file__).parent.parent))  # this folder is not installed
from examples import compare_algorithms

# Columns of the table of times: means over the training steps of a run.
MEANS = {
    "time/step": "s per step",
    "time/rollout": "waited for rollouts",
    "time/rollout_hidden": "rollouts hidden",
    "time/update": "update",
    "time/weights": "weights",
    "staleness/mean": "staleness",
    "off_policy/abs_mean": "off-policy, nats",
    "importance/capped_share": "weights capped",
}


@dataclass
class Args:
    """Options of this script."""

    staleness: tuple[int, ...] = (0, 1, 2)
    """Values of rollout.max_staleness."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs; runs with the same seed use the same questions in the same order."""
    algorithm: str = "ig_grpo"
    """Name of an algorithm, or its file and options."""
    steps: int = 40
    """Number of training steps of each run."""
    eval_every: int = 5
    """Steps between two points of the learning curve."""
    server_url: str = ""
    """Address of a vLLM server of the policy that is trained; default: the built-in decoder."""
    options: str = ""
    """Additional command-line options for every run."""
    output: Path = Path("runs/staleness")
    """Folder of the runs and the report."""


def main(args: Args) -> None:
    """Train what is missing, a run at a time; then write the report."""
    console = Console()
    args.output.mkdir(parents=True, exist_ok=True)
    records: list[RunSummary] = []
    rows: list[dict[str, Any]] = []
    for job in jobs_of(args):
        if compare_algorithms.train_all([job], 1, console):
            raise ConfigurationError(
                f"a run failed; see {job.log} for the cause, fix it and run the same command again"
            )
        records.append(job.record())
        rows.append(times_of(job))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (args.output / "times.jsonl").write_text(lines, encoding="utf-8")
        console.print(f"{job.label}, seed {job.seed}: {rows[-1]['time/step']:.2f} s per step", highlight=False)
    records.sort(key=lambda record: (args.staleness.index(int(record.label.rpartition("-")[2])), record.seed))
    write_report(records, (_label(args.staleness[0]),), args.output, shlex.join(["python", *sys.argv]), console)
    console.print(table_of(rows))


def jobs_of(args: Args) -> list[compare_algorithms.Job]:
    """The runs, ordered by seed, so that an interrupted study is balanced."""
    name, *own = shlex.split(args.algorithm)
    server = ["--rollout.engine", "vllm_server", "--rollout.server-url", args.server_url] if args.server_url else []
    entries = (
        f"{_label(most)}={shlex.join([name, *own, *server, '--rollout.max-staleness', str(most)])}"
        for most in args.staleness
    )
    return compare_algorithms.make_jobs(
        compare_algorithms.Args(
            algorithms=tuple(entries),
            seeds=args.seeds,
            steps=args.steps,
            eval_every=args.eval_every,
            options=args.options,
            output=args.output,
        )
    )


def _label(most: int) -> str:
    return f"staleness-{most}"


def times_of(job: compare_algorithms.Job) -> dict[str, Any]:
    """Means over the training steps of a finished run, without its first step, which is slower."""
    steps = [row for row in read_metrics(job.folder / "metrics.jsonl") if "reward" in row]
    kept = steps[1:] or steps
    means = {key: float(np.mean([row[key] for row in kept])) for key in MEANS if all(key in row for row in kept)}
    return {"label": job.label, "seed": job.seed, "steps": len(steps), **means}


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Means over the seeds; seconds with the smallest and the largest of them."""
    table = Table("", *MEANS.values(), title="Means over steps and seeds (smallest to largest seed)")
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = []
        for key in MEANS:
            values = [row[key] for row in rows if row["label"] == label and key in row]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if key == "time/step" and len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3g}{spread}" if values else "")
        table.add_row(label, *cells)
    return table


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: run the same command again to resume"):
        main(parse_options(Args, description=__doc__))
