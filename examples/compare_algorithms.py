"""Train every algorithm with several seeds on equal rollout budgets and compare the results, with intervals.

    python examples/compare_algorithms.py                                      all algorithms, five seeds
    python examples/compare_algorithms.py --quick                              three of them, in a few minutes
    python examples/compare_algorithms.py --algorithms grpo "steep=ig_grpo --alpha 1.0" --starts bundled cold=runs/cold

An algorithm is a name from algorithms/comparison/registry.py, or LABEL=FILE OPTIONS: a file in algorithms/ or a path,
with options of its command. Runs are executed in parallel, one core each, every run in its own folder: an interrupted
comparison can be resumed, and more algorithms or seeds can be added later. The output folder receives report.md,
report.html, curves-START.png and runs.jsonl (one line per run), from which `--records` builds the same report on
another machine. Budgets count attempts at a question: an episode of MR-Search has three attempts, so it gets a third of
the questions per step.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.output_path import check_output_folder
from algorithms.common.base.typed import as_type
from algorithms.common.config import command_with_present_names
from algorithms.common.model.available import check_policy
from algorithms.comparison.registry import ALGORITHMS
from algorithms.comparison.run_summary import Key, RunSummary, add_elapsed, read_records
from igsearch_env.errors import ConfigurationError, IGSearchError, check_range
from igsearch_env.world.options import BUNDLED
from retrievers.credentials import masked, without_credentials
from retrievers.program import ends_in_one_line
from retrievers.reading import FileError, read_json

ROOT = Path(__file__).parent.parent
STOP_SECONDS = 60  # in which a run that is stopped saves and ends; then it is killed
COMMANDS = {name: entry.command for name, entry in ALGORITHMS.items() if entry.command is not None}
QUICK = {"algorithms": ("grpo", "ig_grpo", "gigpo"), "seeds": (0, 1, 2), "steps": 12}


@dataclass
class Args:
    """Options of this script."""

    algorithms: tuple[str, ...] = tuple(COMMANDS)
    """Algorithms to compare: names, or LABEL=FILE OPTIONS."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs; runs with the same seed use the same questions in the same order."""
    starts: tuple[str, ...] = ("bundled",)
    """Policies to start from: `bundled`, or LABEL=FOLDER."""
    steps: int = 40
    """Number of training steps of each run."""
    eval_every: int = 5
    """Steps between two points of the learning curve."""
    options: str = ""
    """Additional command-line options for every run."""
    against: tuple[str, ...] = ("grpo", "ig_grpo")
    """Labels of the baselines that the others are compared with."""
    reach: tuple[float, ...] = (0.5,)
    """Values of dev EM to which training steps are counted."""
    jobs: int | None = None
    """Number of parallel runs; default: one per core."""
    output: Path = Path("runs/comparison")
    """Folder of the runs and the report."""
    records: tuple[Path, ...] = ()
    """Files of earlier comparisons (runs.jsonl); their runs are not trained again."""
    quick: bool = False
    """Three algorithms, three seeds, 12 steps."""
    report_only: bool = False
    """Train nothing; report the existing runs."""


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
        """Start or resume training; returns the exit status, which is 0 if the run is already complete."""
        if self.done() or stopped.is_set():
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "test_after.json").unlink(missing_ok=True)  # of fewer steps, not of this run
        (self.folder / "command.json").write_text(json.dumps(masked(self.command)))
        with self.log.open("ab") as log:
            start = time.monotonic()
            processes[self.log] = subprocess.Popen([sys.executable, *self.command], stdout=log, stderr=log, cwd=ROOT)
            status = processes.pop(self.log).wait()
            add_elapsed(self.folder, time.monotonic() - start)
            return status

    def done(self) -> bool:
        """Whether the run is complete. Raises `ConfigurationError` if its folder holds a run of another command."""
        record = self.folder / "command.json"
        try:
            before = as_type(list[str], read_json(record), str(record)) if record.is_file() else self.command
        except FileError as error:
            raise ConfigurationError(f"{error}; delete the file, or give another --output") from error
        if _essence(before, "--steps=") != _essence(self.command, "--steps="):
            raise ConfigurationError(
                f"{self.folder} holds a run of another command ({shlex.join(before)}); "
                "give another --output, another label, or delete that folder"
            )
        return _essence(before) == _essence(self.command) and (self.folder / "test_after.json").is_file()

    @property
    def record_command(self) -> list[str]:
        """The command as records have it, without paths."""
        return _essence(self.command)

    def record(self) -> RunSummary:
        """The summary of the finished run for a report."""
        return RunSummary.of_run(self.folder, self.label, self.seed, self.start, self.record_command)


def _essence(command: Sequence[str], *also: str) -> list[str]:
    """A command with current option names, without options that depend on the machine."""
    return [
        word
        for word in command_with_present_names(without_credentials(list(command)))
        if not word.startswith(("--run-dir=", "--policy.path=", *also))
    ]


def main(args: Args) -> None:
    """Train the missing runs, then write the report."""
    if args.quick:
        for name, value in QUICK.items():
            setattr(args, name, value)
    check_output_folder(args.output)
    for start in () if args.report_only else args.starts:
        label, named, path = start.partition("=")
        check_policy(path if named else label, option=f"--starts {label}" if named else "--starts")
    console = Console()
    records = {record.key: record for path in args.records for record in read_records(path)}
    jobs = [job for job in make_jobs(args) if not known(job, records)]
    processors = len(os.sched_getaffinity(0))
    failed = [] if args.report_only else train_all(jobs, processors if args.jobs is None else args.jobs, console)
    add_finished(jobs, records)
    if not records:
        refuse_failed(failed)
    order = {label: place for place, label in enumerate(map(_label, args.algorithms))}
    chosen = sorted(records.values(), key=lambda record: (order.get(record.label, len(order)), record.seed))
    args.output.mkdir(parents=True, exist_ok=True)
    from algorithms.comparison.seeds_report import write_report  # slow: torch

    write_report(chosen, args.against, args.output, shlex.join(["python", *sys.argv]), console, args.reach)
    refuse_failed(failed)


def _label(entry: str) -> str:
    return entry.partition("=")[0]


def add_finished(jobs: Sequence[Job], records: dict[Key, RunSummary]) -> None:
    """Add the summaries of the jobs that are done."""
    for job in jobs:
        if job.done():
            found = job.record()
            records[found.key] = found


def refuse_failed(failed: Sequence[Job]) -> None:
    """Raise `ConfigurationError` if there is a failed run."""
    if failed:
        raise ConfigurationError(
            f"{len(failed)} runs failed; see {failed[0].log} for the cause, fix it and run the same command again"
        )


def known(job: Job, records: Mapping[Key, RunSummary]) -> bool:
    """Whether a record has this run. Raises `ConfigurationError` if it has a run of another command."""
    record = records.get((job.label, job.seed, job.start))
    if record is not None and _essence(record.command) != job.record_command:
        raise ConfigurationError(
            f"--records has {job.label}, seed {job.seed}, of another command ({shlex.join(record.command)}); "
            "give another label, or leave those records out"
        )
    return record is not None


def make_jobs(args: Args) -> list[Job]:
    """All runs of the comparison, ordered by seed, so that an interrupted comparison is balanced."""
    logs = args.output / "logs"
    jobs = []
    for seed in args.seeds:
        for start in args.starts:
            name, _, path = start.partition("=")
            place = os.path.abspath(path) if path not in ("", BUNDLED) else path or name
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
                common += [f"--run-dir={folder}", f"--policy.path={place}"]
                full = [str(path_of_file), *common, *shlex.split(args.options), *options]
                jobs.append(Job(label, seed, name, folder, full, logs / f"{name}-{label}-seed{seed}.log"))
    folders = [job.folder for job in jobs]
    if len(set(folders)) < len(folders):
        raise ConfigurationError("two runs have the same label, start and seed: give each a unique label")
    return jobs


def train_all(jobs: list[Job], workers: int, console: Console) -> list[Job]:
    """Run the jobs in parallel; returns those that failed. Ctrl-C stops all of them; they can be resumed later."""
    check_range("--jobs", workers, 1, len(os.sched_getaffinity(0)))  # each is a process that trains with a thread
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
            # Repeatedly: a run may be about to start, or the signal lost in an import. A killed run resumes, too.
            deadline = time.monotonic() + STOP_SECONDS
            while not all(future.done() for future in futures):
                for process in list(processes.values()):
                    process.terminate() if time.monotonic() < deadline else process.kill()
                time.sleep(0.5)
            raise
    return failed


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: run the same command again to resume"):
        main(parse_options(Args, description=__doc__))
