"""A study: its file, its plan, the choice of learning rates, and the command that runs, resumes and reports it."""

from __future__ import annotations

import importlib
import inspect
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from paths import ROOT
from run_summaries import run_summary

from algorithms.common.config import TrainConfig, parse_config
from algorithms.comparison.run_summary import read_records
from algorithms.comparison.study_file import read_study
from examples.compare_algorithms import Job
from examples.study import Args, main, plan, seconds_left
from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError

SMALL = """
methods: {grpo: grpo, ig_grpo: ig_grpo --alpha 1}
settings:
  bundled: {options: --rollout.questions-per-step 2 --rollout.group-size 4 --eval-limit 2 --test-limit 2
    --rollout.max-new-tokens 12}
stages:
  rates: {methods: [grpo, ig_grpo], settings: [bundled], seeds: [100], learning_rates: [3.0e-4, 6e-4], steps: 1,
          eval_every: 1}
  main: {methods: [grpo, ig_grpo], settings: [bundled], seeds: [0], learning_rates: rates, steps: 2, eval_every: 1,
         against: [grpo], reach: [0.9]}
  parts: {methods: {same: ig_grpo, strong: ig_grpo --credit return}, settings: [bundled], seeds: [0],
          learning_rates: rates, steps: 2, eval_every: 1, against: [same]}
"""


@pytest.fixture
def args(tmp_path: Path) -> Args:
    (tmp_path / "small.yaml").write_text(SMALL)
    return Args(study=tmp_path / "small.yaml", output=tmp_path / "out", records=tmp_path / "records")


def write_records(args: Args, stage: str, jobs: list[Job], dev: dict[str, float]) -> None:
    """Records of these runs, with the last dev EM by label."""
    assert args.records is not None
    (args.records / stage).mkdir(parents=True, exist_ok=True)
    rows = []
    for job in jobs:
        curve = [(1, dev.get(job.label, 0.5)), (2, dev.get(job.label, 0.5))]
        rows.append(run_summary(job.label, job.seed, job.start, curve, command=job.record_command, elapsed=7200.0))
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    (args.records / stage / "runs.jsonl").write_text(lines)


def test_every_command_of_the_study_of_this_repository_is_one_that_its_algorithm_accepts() -> None:
    args = Args(output=Path("runs/nothing"))
    study = read_study(args.study)
    parts = plan(study, args)
    assert {"learning_rates", "main", "ablations"} <= {part.name for part in parts}
    paths_and_numbers = ("--seed", "--run-dir", "--policy.path", "--optimizer.lr", "--steps", "--eval-every")
    kept = {
        tuple(
            word
            for word in shlex.split(shlex.join(job.command).replace("--optimizer.lr ", "--optimizer.lr="))
            if not word.startswith(paths_and_numbers)
        )
        for part in parts
        for job in part.jobs
    }
    for script, *options in kept:
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        configs = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, TrainConfig)]
        parse_config(max(configs, key=lambda config: len(config.__mro__)), options)
    for part in parts:  # the seeds that choose learning rates compare nothing
        if isinstance(part.stage.learning_rates, str):
            assert not set(part.stage.seeds) & set(study.stages[part.stage.learning_rates].seeds)


def test_methods_are_compared_at_their_own_learning_rates(args: Args) -> None:
    study = read_study(args.study)
    rates, main, parts = plan(study, args)
    assert [job.label for job in rates.jobs] == ["grpo@3e-4", "grpo@6e-4", "ig_grpo@3e-4", "ig_grpo@6e-4"]
    assert (main.waits, parts.waits) == (["grpo", "ig_grpo"], ["same", "strong"])
    assert seconds_left(rates.jobs[0], rates, []) is None

    write_records(args, "rates", rates.jobs[:3], {"grpo@6e-4": 0.9})  # one run of ig_grpo is missing
    rates, main, parts = plan(study, args)
    assert (len(rates.missing), main.waits) == (1, ["ig_grpo"])
    write_records(args, "rates", rates.jobs, {"grpo@6e-4": 0.9, "ig_grpo@3e-4": 0.8})
    rates, main, parts = plan(study, args)
    assert (rates.missing, main.waits, parts.waits) == ([], [], [])
    assert [job.label for job in main.jobs] == ["grpo@6e-4", "ig_grpo@3e-4"]
    assert [job.label for job in parts.jobs] == ["same@3e-4", "strong@3e-4"]  # those of ig_grpo
    assert parts.jobs[1].command[-6:] == ["--alpha", "1", "--credit", "return", "--optimizer.lr", "3e-4"]


def test_hours_are_estimated_by_the_runs_most_alike(args: Args) -> None:
    _, main, parts = plan(read_study(args.study), args)
    slow, fast = (
        run_summary(label, elapsed=elapsed) for label, elapsed in (("ig_grpo@3e-4", 40.0), ("grpo@3e-4", 4.0))
    )
    finished = [("rates", slow), ("rates", fast)]  # of four steps
    assert seconds_left(main.jobs[0], main, finished) == pytest.approx(2.0)
    assert seconds_left(main.jobs[1], main, finished) == pytest.approx(20.0)
    assert seconds_left(parts.jobs[1], parts, finished) == pytest.approx(20.0)  # a variant of ig_grpo


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 1,", "steps: 1, step: 2,", r"rates\.step"),
        ("settings: [bundled], seeds: [0]", "settings: [hot], seeds: [0]", "hot"),
        ("same: ig_grpo,", "same: igrpo,", "igrpo"),
        ("same: ig_grpo,", 'same: "",', "methods of stage parts=''"),
        ("rates: {methods: [grpo, ig_grpo]", "rates: {methods: [grpo]", "whose rates rates tries='ig_grpo'"),
        ("learning_rates: [3.0e-4, 6e-4], ", "", "learning_rates of stage main='rates'"),
        ("[3.0e-4, 6e-4]", "[-3.0e-4]", r"learning_rates of stage rates=-0\.0003: must be from"),
        ("against: [same]", "against: [ig_grop]", "against of stage parts='ig_grop'"),
        ("seeds: [100], learning_rates: [3.0e-4, 6e-4], steps: 1", "seeds: [100], steps: 0", "steps of stage rates=0"),
        (
            "learning_rates: rates, steps: 2, eval_every: 1,\n",
            "learning_rates: parts, steps: 2, eval_every: 1,\n",
            "parts",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(args: Args, old: str, new: str, message: str) -> None:
    args.study.write_text(SMALL.replace(old, new))
    assert args.study.read_text() != SMALL
    with pytest.raises((ConfigurationError, FileError), match=message):
        read_study(args.study)


def test_the_number_of_jobs_is_checked_before_hours_are_divided_by_it(args: Args) -> None:
    args.jobs, args.plan_only = 0, True
    with pytest.raises(ConfigurationError, match="--jobs=0: must be at least 1"):
        main(args)


def test_a_folder_of_records_that_does_not_exist_is_not_taken_for_an_empty_one(args: Args) -> None:
    args.plan_only = True
    with pytest.raises(ConfigurationError, match="records: no such folder"):
        main(args)


def test_a_stage_whose_runs_all_fail_names_the_log(args: Args) -> None:
    args.study.write_text(SMALL.replace("{grpo: grpo, ", "{grpo: grpo --steps-, ").replace("alpha 1}", "alpha- 1}"))
    args.stage, args.records = ("rates",), None
    with pytest.raises(ConfigurationError, match=r"4 runs failed; see .*\.log for the cause"):
        main(args)


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/study.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_it_runs_stage_by_stage_and_reports_from_records_alone(args: Args, tmp_path: Path) -> None:
    args.study.write_text("""
methods: {grpo: grpo}
settings:
  bundled: {options: --rollout.questions-per-step 2 --rollout.group-size 4 --eval-limit 2 --test-limit 2}
stages:
  rates: {methods: [grpo], settings: [bundled], seeds: [100], learning_rates: [6e-4], steps: 1, eval_every: 1}
  main: {methods: {plain: grpo, centred: grpo --no-scale-by-std}, settings: [bundled], seeds: [0],
         learning_rates: rates, steps: 2, eval_every: 1, against: [plain], reach: [0.9]}
  later: {methods: [grpo], settings: [bundled], seeds: [1], learning_rates: rates, steps: 2, eval_every: 1}
""")
    given = ("--study", args.study, "--output", args.output)
    early = run("main", *given)
    assert early.returncode == 2
    assert "run the stage rates first" in early.stderr
    done = run("rates", "main", *given, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    report = (args.output / "main" / "report.md").read_text()
    assert "against plain@6e-4" in report
    records = read_records(args.output / "main" / "runs.jsonl")
    assert [record.label for record in records] == ["plain@6e-4", "centred@6e-4"]
    assert all(len(record.seconds) == len(record.tokens_read) == 2 for record in records)
    assert all((record.elapsed or 0) > sum(record.seconds) for record in records)

    again = run("--report-only", "--study", args.study, "--output", tmp_path / "new", "--records", args.output)
    assert again.returncode == 0, again.stderr
    new = (tmp_path / "new" / "main" / "report.md").read_text()
    assert new.splitlines()[1:] == report.splitlines()[1:]
    assert not (tmp_path / "new" / "later").exists()  # it has no runs
