"""Train algorithms x seeds on equal budgets of rollouts and compare them, with intervals.

    python examples/compare_algorithms.py                                      all algorithms, five seeds
    python examples/compare_algorithms.py --quick                              three of them, in a few minutes
    python examples/compare_algorithms.py --algorithms grpo "steep=ig_grpo --alpha 1.0" --starts bundled cold=runs/cold

An algorithm is a name of the list in algorithms/comparison/registry.py, or LABEL=FILE OPTIONS: a file of algorithms/ or
a path, and what its command takes. Runs go side by side, one core each; every run is a folder of its own, so a
comparison that was stopped goes on where it was, and further algorithms or seeds can be added later. It leaves in the
output folder report.md, report.html, curves-START.png and runs.jsonl, a line for each run, from which `--records` makes
the same report elsewhere. Budgets count attempts at a question: MR-Search's episodes hold three, so it gets a third of
the questions a step.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from algorithms.common.base.command_line import parse_options
from algorithms.common.config import command_with_present_names
from algorithms.comparison.registry import ALGORITHMS
from algorithms.comparison.run_summary import RunSummary, read_records
from algorithms.comparison.seeds_report import write_report
from igsearch_env.errors import ConfigurationError, IGSearchError

ROOT = Path(__file__).parent.parent
COMMANDS = {name: entry.command for name, entry in ALGORITHMS.items() if entry.command is not None}
QUICK = {"algorithms": ("grpo", "ig_grpo", "gigpo"), "seeds": (0, 1, 2), "steps": 12}


@dataclass
class Args:
    """Options of this script."""

    algorithms: tuple[str, ...] = tuple(COMMANDS)
    """What to compare: names, or LABEL=FILE OPTIONS."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs: equal ones ask the same questions in the same order."""
    starts: tuple[str, ...] = ("bundled",)
    """Policies to start from: `bundled`, or LABEL=FOLDER."""
    steps: int = 40
    """Training steps of each run."""
    eval_every: int = 5
    """Steps between two points of the learning curve."""
    options: str = ""
    """Options for every run, as on the command line of an algorithm."""
    against: tuple[str, ...] = ("grpo", "ig_grpo")
    """What the others are compared with, by label."""
    jobs: int | None = None
    """Runs side by side; default: one per core."""
    output: Path = Path("runs/comparison")
    """Folder of the runs and the report."""
    records: tuple[Path, ...] = ()
    """Files of earlier comparisons (runs.jsonl): runs that stand there are not trained again."""
    quick: bool = False
    """Three algorithms, three seeds, 12 steps."""
    report_only: bool = False
    """Train nothing: report the runs that are there."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    label: str
    seed: int
    start: str
    folder: Path
    command: list[str]
    log: Path

    def run(self, processes: dict[Path, subprocess.Popen[bytes]], stopped: threading.Event) -> int:
        """Train, or go on training; the exit status. 0 at once if it is done."""
        if self.done() or stopped.is_set():
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "test_after.json").unlink(missing_ok=True)  # of fewer steps: it would pass for this run's
        (self.folder / "command.json").write_text(json.dumps(self.command))
        with self.log.open("ab") as log:
            processes[self.log] = subprocess.Popen([sys.executable, *self.command], stdout=log, stderr=log, cwd=ROOT)
            return processes.pop(self.log).wait()

    def done(self) -> bool:
        """Whether the run is complete. Raises `ConfigurationError` if its folder holds a run of another command."""
        record = self.folder / "command.json"
        before = json.loads(record.read_text()) if record.is_file() else self.command
        if _essence(before, "--steps=") != _essence(self.command, "--steps="):
            raise ConfigurationError(
                f"{self.folder} holds a run of another command ({shlex.join(before)}); "
                "give another --output, another label, or delete that folder"
            )
        return _essence(before) == _essence(self.command) and (self.folder / "test_after.json").is_file()

    def record(self) -> RunSummary:
        """What a report needs of the finished run."""
        return RunSummary.of_run(self.folder, self.label, self.seed, self.start, _essence(self.command))


def _essence(command: Sequence[str], *also: str) -> list[str]:
    """A command without what differs from machine to machine; one of an older version in today's words."""
    return [
        word
        for word in command_with_present_names(command)
        if not word.startswith(("--run-dir=", "--policy.path=", *also))
    ]


def main(args: Args) -> None:
    """Train what is missing, then report."""
    if args.quick:
        for name, value in QUICK.items():
            setattr(args, name, value)
    console = Console()
    records = {record.key: record for path in args.records for record in read_records(path)}
    jobs = [job for job in make_jobs(args) if not _known(job, records)]
    failed = [] if args.report_only else train_all(jobs, args.jobs or len(os.sched_getaffinity(0)), console)
    for job in jobs:
        if job.done():
            found = job.record()
            records[found.key] = found
    order = {label: place for place, label in enumerate(map(_label, args.algorithms))}
    chosen = sorted(records.values(), key=lambda record: (order.get(record.label, len(order)), record.seed))
    args.output.mkdir(parents=True, exist_ok=True)
    write_report(chosen, args.against, args.output, shlex.join(["python", *sys.argv]), console)
    if failed:
        raise ConfigurationError(f"{len(failed)} runs failed; {failed[0].log} says why: mend it, run again")


def _label(entry: str) -> str:
    return entry.partition("=")[0]


def _known(job: Job, records: dict[tuple[str, int, str], RunSummary]) -> bool:
    """Whether a record holds this run. Raises `ConfigurationError` if it holds one of another command."""
    record = records.get((job.label, job.seed, job.start))
    if record is not None and _essence(record.command) != _essence(job.command):
        raise ConfigurationError(
            f"--records hold {job.label}, seed {job.seed}, of another command ({shlex.join(record.command)}); "
            "give another label, or leave those records out"
        )
    return record is not None


def make_jobs(args: Args) -> list[Job]:
    """Every run of the comparison, seed by seed, so that a stopped comparison is balanced."""
    logs = args.output / "logs"
    jobs = []
    for seed in args.seeds:
        for start in args.starts:
            name, _, path = start.partition("=")
            for entry in args.algorithms:
                label, _, command = entry.partition("=") if entry not in COMMANDS else (entry, "", COMMANDS[entry])
                file, *options = shlex.split(command) or [""]
                path_of_file = Path(file) if file.endswith(".py") else Path("algorithms") / f"{file}.py"
                if not (ROOT / path_of_file).is_file():
                    raise ConfigurationError(
                        f"--algorithms {entry!r}: neither a name ({', '.join(COMMANDS)}) nor LABEL=FILE OPTIONS"
                    )
                folder = args.output.resolve() / name / f"{label}-seed{seed}"
                common = [f"--seed={seed}", f"--steps={args.steps}", f"--eval-every={args.eval_every}", "--threads=1"]
                common += [f"--run-dir={folder}", f"--policy.path={os.path.abspath(path) if path else name}"]
                full = [str(path_of_file), *common, *shlex.split(args.options), *options]
                jobs.append(Job(label, seed, name, folder, full, logs / f"{name}-{label}-seed{seed}.log"))
    folders = [job.folder for job in jobs]
    if len(set(folders)) < len(folders):
        raise ConfigurationError("two entries have one label, start and seed: give each a label of its own")
    return jobs


def train_all(jobs: list[Job], workers: int, console: Console) -> list[Job]:
    """Run the jobs side by side; those that failed. Ctrl-C stops them all, and each can go on later."""
    for job in jobs[:1]:
        job.log.parent.mkdir(parents=True, exist_ok=True)
    processes: dict[Path, subprocess.Popen[bytes]] = {}
    stopped = threading.Event()
    failed = []
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(job.run, processes, stopped): job for job in jobs}
        try:
            for future in track(as_completed(futures), "training", len(futures), console=console):
                if future.result() != 0:
                    failed.append(futures[future])
        except BaseException:
            stopped.set()
            for process in list(processes.values()):
                process.terminate()
            raise
    return failed


if __name__ == "__main__":
    try:
        main(parse_options(Args, description=__doc__))
    except IGSearchError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it was")
