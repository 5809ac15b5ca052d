"""The estimate of a run's time before its first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from training_runs import question_file

from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run import time_estimate
from algorithms.common.run.run import Run
from algorithms.common.run.time_estimate import TimeEstimate, estimate_time
from algorithms.common.trainer import print_estimate
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IGGRPOConfig:
    """A run whose rollouts of 1 and 3 questions take 1 and 5 s, information gain 2 s and a forward pass 1 s."""
    seconds = iter((1.0, 5.0, 2.0, 1.0))

    def timed(work: Callable[[], Any]) -> tuple[Any, float]:
        return work(), next(seconds)

    monkeypatch.setattr(time_estimate, "_timed", timed)
    questions = question_file(tmp_path / "questions.jsonl", 12)
    return IGGRPOConfig(
        steps=5,
        eval_every=2,
        eval_limit=1,
        test_limit=1,
        threads=1,
        tracked_questions=2,
        run_dir=tmp_path / "run",
        policy=PolicyConfig(path="bundled"),
        env=EnvConfig(questions=(questions,), eval_questions=(questions,)),
        rollout=RolloutConfig(questions_per_step=4, group_size=3, max_new_tokens=8),
    )


def test_tracked_questions_take_rollouts_and_gains_of_their_own(config: IGGRPOConfig) -> None:
    with Run(IGGRPO(config), config) as run:
        estimate = estimate_time(run, needs_information_gain=True, recomputes=False)
    assert estimate.rollout == pytest.approx(1 + 9 * 4 / 6)
    assert estimate.tracked == pytest.approx((1 + 3 * 4 / 6) + 2 * 6 / 9)  # 6 episodes


def test_without_tracked_questions_they_take_no_time(config: IGGRPOConfig) -> None:
    config = replace(config, tracked_questions=0)
    with Run(IGGRPO(config), config) as run:
        assert estimate_time(run, needs_information_gain=True, recomputes=False).tracked == 0


def test_they_are_rolled_out_at_every_evaluation_and_at_both_ends(
    config: IGGRPOConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = TimeEstimate(1.0, 0.0, 1.0, question=0.5, tracked=10.0)
    monkeypatch.setattr("algorithms.common.trainer.estimate_time", lambda *_, **__: found)
    with Run(IGGRPO(config), config) as run:
        capsys.readouterr()
        print_estimate(run, IGGRPO(config), recomputes=False)
        questions = 2 * len(run.dev_questions) + 2 * len(run.test_questions)
        said = " ".join(capsys.readouterr().out.split())
        assert "5 steps of 2.0 s" in said
        assert f"{questions} evaluated questions and 4 rollouts of the tracked questions (10.0 s each)" in said
        assert f"about {timedelta(seconds=round(10 + questions / 2 + 40))} for" in said
        run.steps_done = 2  # resumed: after steps 4 and 5
        print_estimate(run, IGGRPO(config), recomputes=False)
        assert "and 2 rollouts of the tracked questions" in " ".join(capsys.readouterr().out.split())
