"""A run that is interrupted saves its last complete step, says what the same command will do, and ends as whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from training_runs import question_file, run_ig_grpo, without_times

from algorithms.common import trainer
from algorithms.common.base.errors import TrainingError
from algorithms.common.evaluation.scores import Score
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run import checkpoint
from algorithms.common.run.evaluator import Evaluator
from algorithms.common.run.layout import checkpoints, resumption
from algorithms.common.run.run import Run
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.learner import Learner


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run of four steps that saves nothing before the last."""
    questions = question_file(tmp_path_factory.mktemp("small") / "questions.jsonl", 12)
    return {
        "steps": 4,
        "eval_every": 2,
        "eval_limit": 1,
        "test_limit": 2,
        "save_every": 10,
        "threads": 1,
        "policy": PolicyConfig(path="bundled"),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12),
        "optimizer": OptimizerConfig(num_minibatches=2, token_budget=600),
    }


@pytest.fixture(scope="module")
def whole(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    return run_ig_grpo(small, tmp_path_factory.mktemp("whole") / "run")


def saved(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(run_dir / "checkpoints")]


def interrupts(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> None:
    """The `call`-th call of a function raises, when its work is done if it is `Learner.step`, else before."""
    original, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call and owner is not Learner:
            raise error
        result = original(*arguments, **options)
        if len(calls) == call:
            raise error
        return result

    monkeypatch.setattr(owner, name, interrupted)


# What is called, at which call it is interrupted, and the step that is saved: two optimizer steps make a step.
PHASES = {
    "evaluation before training": (Evaluator, "evaluate", 1, 0),
    "rollout of step 3": (trainer, "collect_batch", 3, 2),
    "after the first of two optimizer steps": (Learner, "step", 5, 0),
    "metrics of step 3": (Run, "record", 3, 0),
    "validation of step 2": (Evaluator, "validate", 1, 2),
    "best policy of step 2": ("algorithms.common.run.evaluations", "write_policy", 1, 2),
    "evaluation after training": (Evaluator, "evaluate", 2, 4),
}


@pytest.mark.parametrize(("owner", "name", "call", "step"), PHASES.values(), ids=PHASES)
def test_an_interrupted_run_saves_what_is_complete_and_ends_as_an_uninterrupted_one(
    owner: Any,
    name: str,
    call: int,
    step: int,
    small: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupts(patch, sys.modules[owner] if isinstance(owner, str) else owner, name, call, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_ig_grpo(small, run_dir)
    assert saved(run_dir) == ([f"step-{step:06d}"] if step else [])
    said = resumption(run_dir)
    assert f"resumes after step {step}" in said if step else "no step is saved, the same command starts again" in said
    assert (str(run_dir / "report.html") in said) == (run_dir / "report.html").is_file()
    run_ig_grpo(small, run_dir)
    assert without_times(run_dir) == without_times(whole)
    for file in ("best/best.json", "test_before.json", "test_after.json"):
        ours, theirs = (json.loads((folder / file).read_text()) for folder in (run_dir, whole))
        for content in (ours, theirs):
            content.get("fingerprint", {}).get("model", {}).pop("trained", None)  # the name of the folder
        assert ours == theirs


@pytest.mark.parametrize("of_this_run", [True, False])
def test_the_evaluation_before_training_is_made_once(
    of_this_run: bool, small: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its file is of another evaluation, such as of questions that have been replaced since."""
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupts(patch, trainer, "collect_batch", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_ig_grpo(small, run_dir)
    before = json.loads((run_dir / "test_before.json").read_text())
    if not of_this_run:
        before["fingerprint"]["questions"] = {}
        (run_dir / "test_before.json").write_text(json.dumps(before))
    evaluate, evaluated = Evaluator.evaluate, []

    def counted(evaluator: Evaluator, step: int, *arguments: Any) -> dict[str, Score]:
        evaluated.append(step)
        return evaluate(evaluator, step, *arguments)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    run_ig_grpo(small, run_dir)
    assert evaluated == ([4] if of_this_run else [0, 4])
    assert without_times(run_dir) == without_times(whole)


def test_an_error_saves_too_and_says_what_resumes(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts(monkeypatch, trainer, "collect_batch", 3, TrainingError("the retriever is away"))
    with pytest.raises(TrainingError, match="away") as caught:
        run_ig_grpo(small, tmp_path / "run")
    assert saved(tmp_path / "run") == ["step-000002"]
    assert caught.value.__notes__ == [resumption(tmp_path / "run")]
    assert f"after step 2; see {tmp_path / 'run' / 'report.html'} and " in caught.value.__notes__[0]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("the device has failed")], ids=repr)
def test_the_last_checkpoint_outlives_a_save_that_does_not_end(
    failure: BaseException, small: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = run_ig_grpo({**small, "save_every": 1, "save_total_limit": 1}, tmp_path / "run", steps=2)
    with monkeypatch.context() as patch:
        interrupts(patch, trainer, "collect_batch", 2, KeyboardInterrupt("the first"))
        interrupts(patch, checkpoint, "flush_to_disk", 3, failure)
        with pytest.raises(KeyboardInterrupt) as caught:
            run_ig_grpo(small, run_dir)
    assert str(caught.value) == ("" if isinstance(failure, KeyboardInterrupt) else "the first")
    assert saved(run_dir) == ["step-000002"]
    assert list((run_dir / "checkpoints").glob(".partial-*"))  # the file was being written
    run_ig_grpo(small, run_dir)
    rows = without_times(run_dir)
    assert [row for row in rows if "test/em" not in row] == [
        row for row in without_times(whole) if "test/em" not in row
    ]


def test_a_resumed_run_saves_the_best_policy_after_an_evaluation_without_results(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Evaluator.validate

    def failed(self: Evaluator, on_end: Any) -> dict[str, Score]:
        return {name: Score(0, nan, nan, nan, failed=1) for name in validate(self, on_end)}

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "validate", failed)
        interrupts(patch, trainer, "collect_batch", 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_ig_grpo(small, tmp_path / "run")
    assert not (tmp_path / "run" / "best").exists()
    run_ig_grpo(small, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "best" / "best.json").read_text())["step"] == 4


def test_a_step_that_is_saved_is_not_saved_again(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts(monkeypatch, trainer, "collect_batch", 3, KeyboardInterrupt())
    interrupts(monkeypatch, Run, "save", 3, AssertionError("saved again"))
    with pytest.raises(KeyboardInterrupt):
        run_ig_grpo(small, tmp_path / "run", save_every=1)
    assert saved(tmp_path / "run") == ["step-000001", "step-000002"]


def test_a_run_that_collects_ahead_is_saved_and_collects_again(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = replace(small["rollout"], max_staleness=1)
    with monkeypatch.context() as patch:
        interrupts(patch, trainer, "policy_update", 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_ig_grpo(small, tmp_path / "run", rollout=rollout)
    assert saved(tmp_path / "run") == ["step-000002"]
    rows = without_times(run_ig_grpo(small, tmp_path / "run", rollout=rollout))
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3, 4]
    assert [row["staleness/max"] for row in rows if "reward" in row] == [0, 1, 0, 1]
    assert [row["step"] for row in rows if "dev/em" in row] == [2, 4]


def test_a_run_of_several_processes_saves_nothing_by_itself(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts(monkeypatch, trainer, "collect_batch", 3, KeyboardInterrupt())
    original = Run.save_unsaved

    def save_unsaved(self: Run) -> None:
        self.processes.size = 2  # a checkpoint would wait for the other one
        original(self)

    monkeypatch.setattr(Run, "save_unsaved", save_unsaved)
    with pytest.raises(KeyboardInterrupt):
        run_ig_grpo(small, tmp_path / "run")
    assert saved(tmp_path / "run") == []


@pytest.mark.parametrize(("overwrite", "command"), [(False, "command"), (True, "command without --overwrite")])
def test_what_the_same_command_does(overwrite: bool, command: str, tmp_path: Path) -> None:
    assert resumption(tmp_path, overwrite=overwrite) == "no step is saved, the same command starts again"
    (tmp_path / "checkpoints" / "step-000020").mkdir(parents=True)  # incomplete
    assert "no step is saved" in resumption(tmp_path, overwrite=overwrite)
    (tmp_path / "checkpoints" / "step-000020" / "state.json").touch()
    assert resumption(tmp_path, overwrite=overwrite) == f"the same {command} resumes after step 20"
    (tmp_path / "report.html").touch()
    assert resumption(tmp_path, overwrite=overwrite).endswith(f" after step 20; see {tmp_path / 'report.html'}")


def test_signals_end_the_command_with_their_status(small: dict[str, Any], tmp_path: Path) -> None:
    questions, run_dir = small["env"].questions[0], tmp_path / "run"
    command = [
        *(sys.executable, "-m", "igsearch", "train", "ig_grpo", "--steps", "500", "--threads", "1"),
        *("--env.questions", questions, "--env.eval-questions", questions, "--test-limit", "1", "--eval-every", "0"),
        *("--rollout.questions-per-step", "2", "--rollout.group-size", "2", "--rollout.max-new-tokens", "8"),
        *("--save-every", "1000", "--skip-initial-evaluation", "--run-dir", str(run_dir)),
    ]

    def stopped(number: signal.Signals, *when: str) -> tuple[int, str]:
        """Status and last line of the command, to which a signal is sent as soon as its output has all of `when`."""
        with (tmp_path / "output").open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 200
        while not all(part in (tmp_path / "output").read_text() for part in when):
            assert process.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, number)
        return process.wait(timeout=120), (tmp_path / "output").read_text().strip().splitlines()[-1]

    assert stopped(signal.SIGINT, "memory:") == (
        -signal.SIGINT,
        "interrupted: no step is saved, the same command starts again",
    )
    status, said = stopped(signal.SIGTERM, "step 2/500")
    assert status == 128 + signal.SIGTERM
    (name,) = saved(run_dir)
    pages = f"{run_dir / 'report.html'} and {run_dir / 'trajectories.html'}"
    assert said == f"interrupted: the same command resumes after step {int(name[5:])}; see {pages}"
    assert not (run_dir / "test_before.json").exists()
    status, said = stopped(signal.SIGINT, "resuming", f"step {int(name[5:]) + 2}/500")
    assert status == -signal.SIGINT
    assert int(said.partition(" after step ")[2].partition(";")[0]) > int(name[5:])
