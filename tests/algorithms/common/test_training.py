"""Training runs: reproducible, resumable at any moment, and honest about what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from models import save_tiny_policy
from paths import ROOT
from training_runs import question_file, run_ig_grpo, without_times

from algorithms.common.base.errors import TrainingError
from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.kv_cache import KVCache
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.common.run.layout import checkpoints
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.run.run import Run
from algorithms.common.run.setup import questions_of_step
from algorithms.common.trainer import train
from algorithms.common.training.config import LossConfig, OptimizerConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.rloo import RLOO
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import bundled_world
from retrievers import BM25Retriever, Passage, RetrievalError
from retrievers.service.faults import FaultyRetriever


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that takes about a second."""
    folder = tmp_path_factory.mktemp("small")
    questions = question_file(folder / "questions.jsonl", 14)
    return {
        "steps": 4,
        "eval_every": 2,
        "eval_limit": 1,
        "save_every": 1,
        "tracked_questions": 0,  # test_tracked.py
        "policy": PolicyConfig(path="bundled"),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12),
        "optimizer": OptimizerConfig(num_minibatches=2, epochs=2, token_budget=600),
    }


def test_two_runs_of_one_seed_are_identical_and_another_seed_is_not(small: dict[str, Any], tmp_path: Path) -> None:
    first, again, other = (
        without_times(run_ig_grpo(small, tmp_path / name, seed=seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == again
    assert first != other
    assert [row["step"] for row in first if "reward" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in first if "test/em" in row] == [0, 4]
    assert [row["step"] for row in first if "dev/em" in row] == [2, 4]
    assert all({key.partition("/")[0] for key in row} <= {"step", "dev"} for row in first if "dev/em" in row)
    required = {"reward", "searches", "all_fail", "time/step", "time/rollout", "time/information_gain", "time/update"}
    assert all(required <= row.keys() for row in read_metrics(tmp_path / "a" / "metrics.jsonl") if "reward" in row)


def test_an_asynchronous_run_plays_the_same_episodes_and_may_be_resumed_in_lockstep(
    small: dict[str, Any], tmp_path: Path
) -> None:
    one = {"steps": 1, "eval_every": 0}
    together = without_times(run_ig_grpo(small, tmp_path / "together", **one))
    alone = replace(small["rollout"], asynchronous=True)
    run_dir = run_ig_grpo(small, tmp_path / "alone", **one, rollout=alone)
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["rollout"]["asynchronous"] is True
    for row, expected in zip(without_times(run_dir), together, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)  # rounding
    run_ig_grpo(small, run_dir, steps=2, eval_every=0)
    assert [row["step"] for row in without_times(run_dir) if "reward" in row] == [1, 2]


def test_a_run_leaves_what_people_look_at(small: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_ig_grpo(small, tmp_path / "run")
    for name in ("config.yaml", "metrics.jsonl", "learning_curve.png", "policy/model.safetensors", "test_after.json"):
        assert (run_dir / name).stat().st_size > 0
    assert list((run_dir / "transcripts").glob("*.txt"))
    assert list((run_dir / "tensorboard").iterdir())
    assert len(checkpoints(run_dir / "checkpoints")) == 2  # save_total_limit


def test_a_pass_writes_each_row_of_the_store_once(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = KVCache.write, []

    def watched(store: KVCache, layer: int, rows_n: torch.Tensor, *pair: torch.Tensor) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        write(store, layer, rows_n, *pair)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert len(rows_n.unique()) == len(rows_n)  # the order of writing then decides nothing
        written.append(len(rows_n))

    monkeypatch.setattr(KVCache, "write", watched)
    run_ig_grpo(small, tmp_path / "run", steps=2)
    assert max(written) > 100  # prompts are read together
    assert min(written) < 10  # and tokens of few episodes are written


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_run_resumes_to_the_same_numbers(
    small: dict[str, Any], tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = without_times(run_ig_grpo(small, tmp_path / "whole"))

    class Crash(BaseException):
        pass

    record = Run.record

    def crash(self: Run, step: int, *arguments: Any) -> None:
        record(self, step, *arguments)
        if step == stop_at:
            raise Crash  # after the metrics were written, before the checkpoint was

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", crash)
        with pytest.raises(Crash):
            run_ig_grpo(small, tmp_path / "broken", save_every=2)
    assert f"{stop_at} of 4" in (tmp_path / "broken" / "report.html").read_text(encoding="utf-8")
    assert without_times(run_ig_grpo(small, tmp_path / "broken", save_every=2)) == whole


def test_a_killed_process_resumes_to_the_same_numbers(small: dict[str, Any], tmp_path: Path) -> None:
    command = [
        *(sys.executable, "algorithms/ig_grpo.py", "--steps", "4", "--eval-every", "2", "--eval-limit", "1"),
        *("--save-every", "1", "--env.questions", small["env"].questions[0]),
        *(
            "--env.eval-questions",
            small["env"].questions[0],
            "--rollout.questions-per-step",
            "3",
            "--rollout.group-size",
            "3",
        ),
        *("--rollout.max-new-tokens", "12", "--threads", "1", "--run-dir"),
    ]
    subprocess.run([*command, str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not checkpoints(tmp_path / "killed" / "checkpoints"):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 0
    subprocess.run([*command, str(tmp_path / "killed")], cwd=ROOT, check=True, capture_output=True)
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again_but_can_be_extended(small: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_ig_grpo(small, tmp_path / "run", steps=2)
    before = without_times(run_dir)
    assert without_times(run_ig_grpo(small, run_dir, steps=2)) == before
    rows = without_times(run_ig_grpo(small, run_dir, steps=3))
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3]


def test_the_first_the_middle_and_the_last_step_are_kept_to_look_at(small: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_ig_grpo(small, tmp_path / "run", steps=5, eval_every=0)
    for kept in ("transcripts", "trajectories"):
        assert [path.name.split(".")[0] for path in sorted((run_dir / kept).glob("step-*"))] == [
            "step-000001",
            "step-000003",
            "step-000005",
        ]


def test_a_folder_with_another_run_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_ig_grpo(small, tmp_path / "run", steps=1)
    with pytest.raises(CheckpointError, match=r"alpha=0\.3.*0\.5.*--run-dir"):
        run_ig_grpo(small, run_dir, alpha=0.5)
    assert read_metrics(run_dir / "metrics.jsonl")
    run_ig_grpo(small, run_dir, alpha=0.5, steps=1, overwrite=True)
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["alpha"] == 0.5


def test_a_checkpoint_of_another_model_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    save_tiny_policy(folder)
    run_dir = run_ig_grpo(small, tmp_path / "run", steps=1, policy=PolicyConfig(path=str(folder)))
    save_tiny_policy(folder, architecture="llama")
    with pytest.raises(CheckpointError, match="another model"):
        run_ig_grpo(small, run_dir, steps=2, policy=PolicyConfig(path=str(folder)))


def test_micro_batches_and_their_size_change_no_number(small: dict[str, Any], tmp_path: Path) -> None:
    losses = []
    for budget in (200, 100_000):
        optimizer = OptimizerConfig(token_budget=budget)
        rows = without_times(run_ig_grpo(small, tmp_path / str(budget), steps=2, optimizer=optimizer))
        losses.append([(row["loss/policy"], row["policy/grad_norm"]) for row in rows if "reward" in row])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.kl_coef": 0.1, "loss.kl_estimator": "k2", "loss.entropy_coef": 0.01},
        {"loss.horizon": 60, "loss.aggregation": "seq-mean-token-sum-norm", "scale_by_std": False},
        {"loss.clip_ratio_high": 0.28, "dynamic_sampling": True, "overlong_buffer": 12, "loss.dual_clip": 3.0},
        {"loss.ratio": "sequence", "loss.aggregation": "seq-mean-token-mean"},
        {"env.protocol": "autorefine", "env.outcome_reward": "autorefine"},
    ],
)
def test_options_train(small: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    import dataclasses

    config = IGGRPOConfig(**{**small, "run_dir": tmp_path / "run", "steps": 2, "eval_every": 0})
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if section:
            value = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section or name: value})
    train(IGGRPO(config), config)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in row]
    assert len(rows) == 2
    assert all(np.isfinite(v) for row in rows for v in row.values())


class FlakyRetriever(BM25Retriever):
    """Fails every `period`-th call."""

    def __init__(self, passages: list[Passage], period: int) -> None:
        super().__init__(passages)
        self.period, self.calls = period, 0

    def search(self, queries: Any, k: int) -> list[list[Passage]]:
        self.calls += 1
        if self.calls % self.period == 0:
            raise RetrievalError("the index is away")
        return super().search(queries, k)


def flaky(period: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run searches with a retriever that fails now and then."""
    retriever = FlakyRetriever(bundled_world().passages, period)
    monkeypatch.setattr("algorithms.common.run.run.make_retriever", lambda *names: retriever)


def test_retrieval_failures_are_left_out_and_counted(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky(6, monkeypatch)
    env = EnvConfig(**{**vars(small["env"]), "max_failure_rate": 1.0})
    rows = without_times(run_ig_grpo(small, tmp_path / "run", env=env))
    assert sum(row["retrieval_failures"] for row in rows if "reward" in row) > 0


def test_a_run_survives_a_tenth_of_its_searches_failing_and_says_so(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    retriever = FaultyRetriever(BM25Retriever(bundled_world().passages), rate=0.1, seed=0, kinds=("error", "latency"))
    monkeypatch.setattr("algorithms.common.run.run.make_retriever", lambda *names: retriever)
    env = EnvConfig(**{**vars(small["env"]), "max_failure_rate": 0.6})
    rows = [row for row in without_times(run_ig_grpo(small, tmp_path / "run", env=env)) if "reward" in row]
    failed = sum(row["retrieval_failures"] for row in rows)
    assert 0 < failed < 9 * len(rows)
    assert retriever.injected["error"] > 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"retrieval failed for {failed:.0f} episodes: excluded from loss and group statistics" in said


def test_too_many_retrieval_failures_stop_the_run(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky(3, monkeypatch)
    with pytest.raises(TrainingError, match=r"retrieval failed for \d+ of 9.*max_failure_rate=0\.2"):
        run_ig_grpo(small, tmp_path / "run")
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["step"] == 0


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda values: values * np.float32("nan"), "grpo.advantages returned nan: values must be finite"),
        (lambda values: values * np.float32(1e37), r"step 3: the gradient norm is (inf|nan).*optimizer\.lr"),
        (lambda values: values[:-1], r"grpo.advantages returned shape .* one value per policy token.*broadcast"),
    ],
)
def test_what_is_not_finite_or_shaped_stops_the_run_and_leaves_it_readable(
    poison: Any, message: str, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GRPOConfig(**{**small, "run_dir": tmp_path / "run"})
    algorithm = GRPO(config)
    plain = algorithm.advantages
    steps = []

    def poisoned(buffer: Any) -> Any:
        steps.append(buffer)
        return poison(plain(buffer)) if len(steps) == 3 else plain(buffer)

    monkeypatch.setattr(algorithm, "advantages", poisoned)
    with pytest.raises(TrainingError, match=message):
        train(algorithm, config)
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in row] == [1, 2]
    resumed = Run(algorithm, config)
    assert resumed.steps_done == 2
    weights = resumed.policy.model.state_dict()
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize("error", [KeyboardInterrupt, TrainingError])
def test_what_ends_a_run_is_not_hidden_by_a_report_that_can_not_be_written(
    error: type[BaseException], small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def no_report(run_dir: Path) -> list[Path]:
        asked.append(run_dir)
        raise ConfigurationError("no run")

    def ends(*_: Any) -> None:
        raise error("enough")

    monkeypatch.setattr("algorithms.common.trainer.write_reports", no_report)
    monkeypatch.setattr(Run, "record", ends)
    with pytest.raises(error, match="enough"):
        run_ig_grpo(small, tmp_path / "run")
    assert asked == [tmp_path / "run"]


def test_a_finished_run_says_what_it_left_and_why_a_report_is_missing(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_ig_grpo(small, tmp_path / "run", steps=1)
    assert f"results in {run_dir}/: trajectories.html and searches.html and report.html;" in capsys.readouterr().out

    def no_report(run_dir: Path) -> list[Path]:
        raise ConfigurationError("damaged")

    monkeypatch.setattr("algorithms.common.trainer.write_reports", no_report)
    run_ig_grpo(small, run_dir, steps=1)  # it has finished already
    assert f"results in {run_dir}/: no report (damaged);" in capsys.readouterr().out


def test_a_prompt_longer_than_the_context_is_an_error(small: dict[str, Any], tmp_path: Path) -> None:
    policy = PolicyConfig(path="bundled", context_length=20)
    with pytest.raises(ConfigurationError, match=r"prompt has \d+ tokens.*context of 20"):
        run_ig_grpo(small, tmp_path / "run", policy=policy)


def test_a_short_context_ends_episodes_with_their_own_reason(small: dict[str, Any], tmp_path: Path) -> None:
    policy = PolicyConfig(path="bundled", context_length=60)
    rows = without_times(run_ig_grpo(small, tmp_path / "run", steps=1, policy=policy))
    assert next(row["answered"] for row in rows if "answered" in row) < 1


def test_questions_of_a_pass_do_not_repeat() -> None:
    questions = bundled_world().questions["train"][:14]
    ids = [q.id for step in range(1, 6) for q in questions_of_step(questions, 3, seed=0, step=step)]
    assert len(set(ids[:14])) == 14
    assert len(ids) == 15
    assert ids[:3] != [q.id for q in questions_of_step(questions, 3, seed=0, step=1, refill=1)]


@pytest.mark.parametrize(
    ("compute_dtype", "sampler", "said"),
    [(None, None, "float32"), ("bfloat16", None, "bfloat16"), ("float16", "bfloat16", "bfloat16")],
)
def test_an_evaluation_names_its_precision_and_its_attempts(
    compute_dtype: str | None, sampler: str | None, said: str, small: dict[str, Any], tmp_path: Path
) -> None:
    changes = {
        "policy": replace(small["policy"], compute_dtype=compute_dtype),
        "rollout": replace(small["rollout"], dtype=sampler),
        "env": replace(small["env"], attempts=3),
    }
    config = TrainConfig(**{**small, **changes, "run_dir": tmp_path / "run"})
    run = Run(RLOO(config), config)
    found = run.evaluator.fingerprint(0)
    assert (found["decoding"]["dtype"], found["attempts"]) == (said, 3)


@pytest.mark.parametrize(
    ("compute_dtype", "cap", "recomputed"), [(None, 2.0, False), ("bfloat16", None, True), ("bfloat16", 2.0, True)]
)
def test_old_log_probs_are_recomputed_unless_they_are_the_trainers(
    compute_dtype: str | None, cap: float | None, recomputed: bool, small: dict[str, Any], tmp_path: Path
) -> None:
    """And weigh the loss then, unless the cap is None. These tests sample with float32 weights otherwise."""
    changes = {
        "policy": replace(small["policy"], compute_dtype=compute_dtype),
        "loss": LossConfig(importance_sampling_cap=cap),
        "eval_every": 0,
        "steps": 1,
    }
    config = GRPOConfig(**{**small, **changes, "run_dir": tmp_path})
    train(GRPO(config), config)
    (row,) = (row for row in read_metrics(tmp_path / "metrics.jsonl") if "reward" in row)
    assert ("mismatch/abs_mean" in row) is recomputed
    assert ("importance/mean" in row) is (recomputed and cap is not None)
