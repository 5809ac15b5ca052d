"""Comparing runs: paired differences, verdicts, and the command that trains, resumes and reports."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from algorithms.common import command as training
from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, parse_config
from algorithms.common.evaluation.intervals import paired_difference
from algorithms.common.evaluation.results import read_result, write_result
from algorithms.common.evaluation.scores import QuestionResult, score
from algorithms.comparison.registry import ALGORITHMS
from algorithms.comparison.run_summary import RunSummary, make_seed_groups, read_records
from examples.compare_algorithms import COMMANDS, Args, Job, make_jobs
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, Trajectory

TINY = "--rollout.questions-per-step 2 --rollout.group-size 4 --eval-limit 2 --rollout.max-new-tokens 12"


# Two episodes with a search each, one of which succeeds; the critic says 0 everywhere.
BUFFER = buffer_of(
    [[trajectory([search_turn(range(5), (1, 3), gain), answer_turn(range(4))], gain) for gain in (0.0, 1.0)]]
)
BUFFER.values = np.zeros(int(BUFFER.policy_tokens.sum()), dtype=np.float32)


def exact_matches(seeds: int, questions: int, share: float, seed: int = 0) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Made-up results of two data sets."""
    rng = np.random.default_rng(seed)
    return {name: (rng.random((seeds, questions)) < share).astype(float) for name in ("a", "b")}


# ---------------------------------------------------------------- paired differences


def test_a_run_against_itself_differs_by_nothing() -> None:
    runs = exact_matches(3, 50, 0.4)
    found = paired_difference(runs, runs)
    assert (found.mean, found.bootstrap, found.t) == (0, (0, 0), (0, 0))
    assert not found.clear


def test_the_mean_is_over_data_sets_each_counting_once() -> None:
    ours = {"a": np.ones((1, 10)), "b": np.zeros((1, 1000))}
    theirs = {"a": np.zeros((1, 10)), "b": np.zeros((1, 1000))}
    assert paired_difference(ours, theirs).mean == pytest.approx(0.5)


@given(st.integers(2, 6), st.floats(0.1, 0.9))
def test_intervals_hold_the_mean_and_turn_with_the_sides(seeds: int, share: float) -> None:
    ours, theirs = exact_matches(seeds, 30, share), exact_matches(seeds, 30, 0.5, seed=1)
    found, turned = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert found.bootstrap[0] <= found.mean <= found.bootstrap[1]
    assert found.t is not None
    assert found.t[0] <= found.mean <= found.t[1]
    assert turned.mean == pytest.approx(-found.mean)
    assert turned.bootstrap == pytest.approx((-found.bootstrap[1], -found.bootstrap[0]))


def test_the_t_interval_is_students() -> None:
    base = np.zeros((3, 4))
    ours = {"a": base + np.array([[0.1], [0.2], [0.3]])}
    found = paired_difference(ours, {"a": base})
    half = 4.30265273 * 0.1 / np.sqrt(3)
    assert found.t == pytest.approx((0.2 - half, 0.2 + half))


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        questions, seeds = rng.normal(0.1, 0.5, 80), rng.normal(0, 0.05, (12, 1))
        values = {"a": questions + seeds + rng.normal(0, 0.3, (12, 80))}
        low, high = paired_difference(values, {"a": np.zeros((12, 80))}, resamples=400).bootstrap
        covered += low <= 0.1 <= high
    assert 50 <= covered <= 60


# ---------------------------------------------------------------- result files


def test_a_result_file_holds_scores_and_a_row_per_question(tmp_path: Path) -> None:
    played = [
        Trajectory(Question(str(i), "q?", ("yes",), "a"), "q?", [], "yes" if i else None, float(i > 0), ANSWERED)
        for i in range(3)
    ]
    write_result(tmp_path / "r.json", [QuestionResult.of(t) for t in played], score(played), algorithm="x")
    result = read_result(tmp_path / "r.json")
    assert result.scores == score(played)
    assert [(row.id, row.em) for row in result.rows["a"]] == [("0", 0.0), ("1", 1.0), ("2", 1.0)]
    assert result.header["algorithm"] == "x"


def test_curves_of_dev_and_of_test_questions_are_kept_apart(tmp_path: Path) -> None:
    played = [Trajectory(Question("0", "q?", ("yes",), "a"), "q?", [], "yes", 1.0, ANSWERED)]
    rows = [QuestionResult.of(t) for t in played]
    write_result(tmp_path / "test_after.json", rows, score(played), algorithm="x", step=4)
    metrics = [{"step": 0, "test/em": 0.1}, {"step": 1, "reward": 0.5}, {"step": 2, "dev/em": 0.3}]
    metrics += [{"step": 4, "dev/em": 0.5}, {"step": 4, "test/em": 0.7}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    record = RunSummary.of_run(tmp_path, "x", 0, "bundled", [])
    assert record.curves == {"dev": [(2, 0.3), (4, 0.5)], "test": [(0, 0.1), (4, 0.7)]}
    (group,) = make_seed_groups([record])
    assert group.area == pytest.approx(0.4)

    now = asdict(record)
    joined = {key: value for key, value in now.items() if key != "curves"} | {"curve": [[0, 0.1], [2, 0.3], [4, 0.7]]}
    (tmp_path / "runs.jsonl").write_text(json.dumps(now) + "\n" + json.dumps(joined) + "\n")
    again, older = read_records(tmp_path / "runs.jsonl")  # the second as earlier versions wrote it
    assert again == record
    assert older.curves == {"dev": [(2, 0.3)], "test": [(0, 0.1), (4, 0.7)]}
    assert make_seed_groups([older])[0].area is None


# ---------------------------------------------------------------- jobs


def test_every_algorithm_has_a_job_for_each_seed_and_start(tmp_path: Path) -> None:
    jobs = make_jobs(Args(seeds=(0, 1), starts=("bundled", "mine=some/folder"), output=tmp_path))
    assert len(jobs) == len(COMMANDS) * 4
    assert {job.seed for job in jobs[: len(COMMANDS) * 2]} == {0}
    assert sum(f"--policy.path={Path('some/folder').absolute()}" in job.command for job in jobs) == len(jobs) // 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_of_every_algorithm_makes_its_estimator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = make_jobs(Args(algorithms=(name,), seeds=(0,)))
    made: list[Algorithm] = []

    def main(algorithm_class: type[Algorithm], config_class: type[TrainConfig], description: str) -> None:
        made.append(algorithm_class(parse_config(config_class, job.command[1:])))  # type: ignore[call-arg]

    monkeypatch.setattr(training, "main", main)
    runpy.run_path(str(ROOT / job.command[0]), run_name="__main__")
    assert made[0].name == ALGORITHMS[name].algorithm.name
    assert made[0].advantages(BUFFER).tolist() == ALGORITHMS[name].algorithm.advantages(BUFFER).tolist()


def test_an_algorithm_can_be_a_file_with_options() -> None:
    (job,) = make_jobs(Args(algorithms=("steep=ig_grpo --alpha 1.0",), seeds=(3,)))
    assert job.command[0] == "algorithms/ig_grpo.py"
    assert job.command[-2:] == ["--alpha", "1.0"]
    assert (job.label, job.seed) == ("steep", 3)


@pytest.mark.parametrize(
    ("algorithms", "message"),
    [(("grpoo",), "grpoo.*neither a name"), (("x=nothing.py",), "x=nothing.py"), (("grpo", "grpo"), "the same label")],
)
def test_bad_lists_are_refused(algorithms: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_jobs(Args(algorithms=algorithms))


def test_a_folder_of_another_command_is_refused_but_more_steps_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "command.json").write_text(json.dumps(["a.py", "--steps=2", "--run-dir=/elsewhere", "--alpha=1"]))
    (folder / "test_after.json").write_text("{}")

    def job(*options: str) -> Job:
        return Job("x", 0, "bundled", folder, ["a.py", "--run-dir=/here", *options], tmp_path / "log")

    assert job("--steps=2", "--alpha=1").done()
    assert not job("--steps=3", "--alpha=1").done()
    with pytest.raises(ConfigurationError, match="another command"):
        job("--steps=2", "--alpha=2").done()


# ---------------------------------------------------------------- the command


def command(output: Path, *options: str) -> list[str]:
    """A comparison of two algorithms that takes seconds."""
    base = [sys.executable, "examples/compare_algorithms.py", "--algorithms", "grpo", "ig_grpo", "--seeds", "0", "1"]
    return [*base, "--steps", "1", f"--options={TINY}", "--output", str(output), *options]


def test_it_is_stopped_resumed_and_reports(tmp_path: Path) -> None:
    started = subprocess.Popen(
        command(tmp_path / "out"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.time() + 120
    while not list((tmp_path / "out").rglob("config.yaml")) and time.time() < deadline:
        time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == -signal.SIGINT
    assert "run the same command again to resume" in said

    done = subprocess.run(command(tmp_path / "out"), cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| ig_grpo | 2 |" in report
    assert "against grpo" in report
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "out" / "curves-bundled.png").stat().st_size > 10_000

    before = {p: p.stat().st_mtime for p in (tmp_path / "out").rglob("metrics.jsonl")}
    again = subprocess.run(command(tmp_path / "out"), cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0
    assert {p: p.stat().st_mtime for p in before} == before
    assert (tmp_path / "out" / "report.md").read_text() == report

    records = read_records(tmp_path / "out" / "runs.jsonl")
    ours, theirs = make_seed_groups(records)
    assert ours.seeds == theirs.seeds == (0, 1)
    assert ours.gain_share == 0 < theirs.gain_share < 1
    assert ours.per_step("attempts") == 8

    moved = tmp_path / "runs.jsonl"
    moved.write_text((tmp_path / "out" / "runs.jsonl").read_text())
    options = ["--records", str(moved), "--report-only"]
    again = subprocess.run(command(tmp_path / "new", *options), cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "new" / "report.md").read_text().splitlines()[1:] == report.splitlines()[1:]

    other = command(tmp_path / "new", *options)
    other[other.index("--steps") + 1] = "2"
    refused = subprocess.run(other, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert refused.returncode == 2
    assert "of another command" in refused.stderr


def test_a_report_without_runs_says_what_to_do(tmp_path: Path) -> None:
    said = subprocess.run(
        command(tmp_path / "out", "--report-only"), cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert said.returncode == 2
    assert "no complete run" in said.stderr


def test_a_run_of_more_steps_does_not_pass_for_done_by_the_result_of_fewer(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "test_after.json").write_text("{}")
    job = Job("x", 0, "bundled", folder, ["-c", "raise SystemExit(3)", "--steps=3"], tmp_path / "log")
    (folder / "command.json").write_text(json.dumps(["-c", "raise SystemExit(3)", "--steps=2"]))
    assert job.run({}, threading.Event()) == 3
    assert not job.done()
