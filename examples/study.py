"""Run a study of several comparisons, its stages, from one file; train what is missing and write the reports.

    python examples/study.py --plan-only            runs, runs done, and hours left, estimated from finished runs
    python examples/study.py                        all stages of examples/studies/step-credit.yaml
    python examples/study.py main --jobs 2          one stage, two runs at a time
    python examples/study.py --report-only --records docs/results/step-credit    the same reports from records alone

A stage compares methods over settings (a starting policy, and options such as another world) and seeds. A stage with
`learning_rates` trains every method at each of them; a later stage that names it trains a method, and its variants, at
the rate that was best there (algorithms/comparison/learning_rates.py), as its labels say: `grpo@6e-4`. OUTPUT/STAGE has
what compare_algorithms.py writes: report.md, report.html, curves-SETTING.png, and runs.jsonl with a line per run, from
which `--records` builds the reports on another machine. Ctrl-C stops the study; the same command resumes it. Times can
be compared only with one run at a time and nothing else running.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.output_path import check_output_folder
from algorithms.comparison.learning_rates import at_rate, rate_of, rates_by_method, shown_rate
from algorithms.comparison.run_summary import Key, RunSummary, make_seed_groups, read_records
from algorithms.comparison.study_file import Stage, Study, read_study
from igsearch_env.errors import ConfigurationError, IGSearchError, check_choice, check_range
from igsearch_env.world.options import BUNDLED
from retrievers.program import ends_in_one_line

sys.path.insert(0, str(Path(__file__).parent.parent))  # this folder is not installed
from examples.compare_algorithms import ROOT, Job, add_finished, known, make_jobs, refuse_failed, train_all
from examples.compare_algorithms import Args as Comparison

PLANNED = "0"  # stands for a learning rate that is not chosen yet


@dataclass
class Args:
    """Options of this script."""

    stage: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Stages to run; default: all."""
    study: Path = Path(__file__).parent / "studies" / "step-credit.yaml"
    """File of the study."""
    output: Path = Path("runs/study")
    """Folder of the runs and the reports."""
    records: Path | None = None
    """Folder with STAGE/runs.jsonl of earlier runs, which are not trained again."""
    jobs: int = 1
    """Number of parallel runs."""
    plan_only: bool = False
    """Print the plan and end."""
    report_only: bool = False
    """Train nothing; report the existing runs."""


@dataclass
class Part:
    """A stage, its runs, and the records of those that are done."""

    name: str
    stage: Stage
    jobs: list[Job]
    records: dict[Key, RunSummary]
    waits: list[str]
    """Methods whose learning rate is not chosen yet; their jobs are only counted."""

    @property
    def missing(self) -> list[Job]:
        """The runs that are not done."""
        return [job for job in self.jobs if (job.label, job.seed, job.start) not in self.records]


def main(args: Args) -> None:
    """Print the plan; then stage by stage, train what is missing and write the report."""
    study = read_study(args.study)
    for name in args.stage:
        check_choice("stage", name, study.stages)
    check_range("--jobs", args.jobs, 1)
    if args.records is not None and not args.records.is_dir():
        raise ConfigurationError(f"--records {args.records}: no such folder; give one with STAGE/runs.jsonl")
    check_output_folder(args.output)
    console = Console()
    console.print(plan_table(plan(study, args), args.jobs), highlight=False)
    for name in () if args.plan_only else args.stage or study.stages:
        part = next(part for part in plan(study, args) if part.name == name)
        if args.report_only and not part.records:
            continue
        failed = [] if args.report_only else train(part, study, args, console)
        add_finished(part.missing, part.records)
        if not part.records:
            refuse_failed(failed)
        from algorithms.comparison.seeds_report import write_report  # slow: torch

        folder, stage = args.output / name, part.stage
        folder.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", *sys.argv])
        write_report(in_order(part), stage.against, folder, command, console, stage.reach)
        refuse_failed(failed)


# ---------------------------------------------------------------- the plan


def plan(study: Study, args: Args) -> list[Part]:
    """All stages, with the records of the runs that are done."""
    parts: dict[str, Part] = {}
    for name, stage in study.stages.items():
        path = args.records / name / "runs.jsonl" if args.records else None
        records = {record.key: record for record in read_records(path)} if path and path.is_file() else {}
        rates = chosen_rates(parts[stage.learning_rates]) if isinstance(stage.learning_rates, str) else {}
        jobs = jobs_of(study, stage, args.output / name, rates)
        missing = [job for job in jobs if not known(job, records)]
        add_finished(missing, records)
        waits = [rate_of(job.label)[0] for job in jobs if rate_of(job.label)[1] == PLANNED]
        parts[name] = Part(name, stage, jobs, records, list(dict.fromkeys(waits)))
    return list(parts.values())


def chosen_rates(part: Part) -> dict[tuple[str, str], str]:
    """The learning rate of each method and setting whose runs at all rates are done."""
    missing = {(rate_of(job.label)[0], job.start) for job in part.missing}
    found = {}
    for setting in part.stage.settings:
        planned = {(job.label, job.seed, job.start) for job in part.jobs if job.start == setting}
        for rates in rates_by_method(make_seed_groups([part.records[key] for key in planned & part.records.keys()])):
            if (rates.method, setting) not in missing:
                found[rates.method, setting] = rates.chosen
    return found


def jobs_of(study: Study, stage: Stage, output: Path, chosen: Mapping[tuple[str, str], str]) -> list[Job]:
    """The runs of a stage, ordered by seed. A method without a chosen rate has a label of its own, for the plan."""
    jobs: list[Job] = []
    for setting in stage.settings:
        start = study.settings[setting].start
        entries = []
        for label, words in stage.variants.items():
            method, *own = shlex.split(words)
            command = shlex.join([*shlex.split(study.methods[method]), *own])
            if isinstance(stage.learning_rates, str):  # chosen in this setting, or else in the first one
                settings = [setting, *study.stages[stage.learning_rates].settings]
                rates = [next((chosen[method, name] for name in settings if (method, name) in chosen), PLANNED)]
            else:
                rates = [shown_rate(rate) for rate in stage.learning_rates]
            entries += [f"{at_rate(label, rate)}={command} --optimizer.lr {rate}" for rate in rates]
            entries += [] if rates else [f"{label}={command}"]
        comparison = Comparison(
            algorithms=tuple(entries),
            seeds=tuple(stage.seeds),
            starts=(f"{setting}={start if start == BUNDLED else ROOT / start}",),
            steps=stage.steps,
            eval_every=stage.eval_every,
            options=study.settings[setting].options,
            output=output,
        )
        jobs += make_jobs(comparison)
    return sorted(jobs, key=lambda job: job.seed)


def plan_table(parts: Sequence[Part], workers: int) -> Table:
    """Runs, runs done and hours left of each stage and setting; hours by finished runs, most alike first."""
    finished = [(part.name, record) for part in parts for record in part.records.values()]
    table = Table("stage", "setting", "runs", "done", "hours left", "waits for", title="Plan")
    total = [0, 0, 0.0]
    for part in parts:
        for setting in part.stage.settings:
            jobs = [job for job in part.jobs if job.start == setting]
            missing = [job for job in part.missing if job.start == setting]
            seconds = [seconds_left(job, part, finished) for job in missing]
            hours = sum(filter(None, seconds)) / 3600 / workers
            shown = "?" if None in seconds else f"{hours:.1f}"
            done = len(jobs) - len(missing)
            waits = str(part.stage.learning_rates) if part.waits else ""
            table.add_row(part.name, setting, str(len(jobs)), str(done), shown, waits)
            total = [total[0] + len(jobs), total[1] + done, total[2] + hours]
    table.add_row("all", "", str(total[0]), str(total[1]), f"{total[2]:.1f}", "", style="bold")
    return table


def seconds_left(job: Job, part: Part, finished: Sequence[tuple[str, RunSummary]]) -> float | None:
    """Estimated seconds of a run, by the finished ones that are most like it; None if there is none."""
    method = part.stage.variants[rate_of(job.label)[0]].split()[0]
    alike: tuple[Callable[[str, RunSummary], bool], ...] = (
        lambda name, record: (name, record.label, record.start) == (part.name, job.label, job.start),
        lambda name, record: (rate_of(record.label)[0], record.start) == (method, job.start),
        lambda name, record: rate_of(record.label)[0] == method,
        lambda name, record: name == part.name,
        lambda name, record: True,
    )
    for like in alike:
        found = [record for name, record in finished if like(name, record)]
        if found:
            each = [(record.elapsed or record.cost_of_steps("seconds").sum()) / record.steps for record in found]
            return float(np.mean(each)) * part.stage.steps
    return None


# ---------------------------------------------------------------- training and reports


def train(part: Part, study: Study, args: Args, console: Console) -> list[Job]:
    """Train the missing runs of a stage, after their starting policies; returns those that failed."""
    if part.waits:
        raise ConfigurationError(
            f"stage {part.name}: the learning rate of {', '.join(part.waits)} is not chosen; run the stage "
            f"{part.stage.learning_rates} first"
        )
    for name in dict.fromkeys(job.start for job in part.missing):
        setting = study.settings[name]
        if setting.made_by and not (ROOT / setting.start / "config.json").is_file():
            console.print(f"making {setting.start}: python {setting.made_by}", highlight=False)
            done = subprocess.run([sys.executable, *shlex.split(setting.made_by)], cwd=ROOT, check=False)
            if done.returncode:
                raise ConfigurationError(f"setting {name}: python {setting.made_by} failed; correct `made_by`")
    return train_all(part.missing, args.jobs, console)


def in_order(part: Part) -> list[RunSummary]:
    """The records of a stage in the order of its settings, methods and seeds; first those that it plans."""
    order = {key: place for place, key in enumerate((job.label, job.start) for job in part.jobs)}
    settings = part.stage.settings
    return sorted(
        part.records.values(),
        key=lambda r: (
            settings.index(r.start) if r.start in settings else len(settings),
            order.get((r.label, r.start), len(order)),
            r.seed,
        ),
    )


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: run the same command again to resume"):
        main(parse_options(Args, description=__doc__))
