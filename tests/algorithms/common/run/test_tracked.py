"""Tracked questions: recorded at fixed steps with gains and advantages, without an effect on training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_vllm
import pytest
from training_runs import question_file, without_times

from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run import tracked
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.run.recorded_trajectories import RecordedStep, load_recorded
from algorithms.common.run.tracked import TrackedQuestions, tracked_questions
from algorithms.common.trainer import train
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.mr_search import MRSearch, MRSearchConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.rloo import RLOO
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.questions import Question
from igsearch_env.world.bundled import bundled_world
from retrievers import BM25Retriever, Passage, QueryError


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that takes about a second."""
    questions = question_file(tmp_path_factory.mktemp("small") / "questions.jsonl", 14)
    return {
        "steps": 3,
        "eval_every": 2,
        "eval_limit": 1,
        "policy": PolicyConfig(path="bundled"),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=2, group_size=3, max_new_tokens=12),
    }


def records(run_dir: Path) -> dict[str, RecordedStep]:
    """The recorded tracked questions of a run, by file."""
    return {path.name: load_recorded(path) for path in sorted((run_dir / "trajectories").glob("tracked-*"))}


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_tracking_does_not_change_the_run(small: dict[str, Any], tmp_path: Path, max_staleness: int) -> None:
    rollout = RolloutConfig(questions_per_step=2, group_size=3, max_new_tokens=12, max_staleness=max_staleness)
    for count in (0, 2):
        settings = {**small, "rollout": rollout, "tracked_questions": count, "run_dir": tmp_path / str(count)}
        config = IGGRPOConfig(**settings)
        train(IGGRPO(config), config)
    assert without_times(tmp_path / "0") == [row for row in without_times(tmp_path / "2") if len(row) > 1]
    name = "policy/model.safetensors"
    assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert records(tmp_path / "0") == {}
    found = records(tmp_path / "2")
    assert [step.step for step in found.values()] == [0, 2, 3]
    asked = [[group["question"]["id"] for group in step.groups] for step in found.values()]
    assert len(set(asked[0])) == 2
    assert asked == [asked[0]] * 3
    for step in found.values():
        turns = [turn for group in step.groups for row in group["trajectories"] for turn in row["turns"]]
        assert {len(group["trajectories"]) for group in step.groups} == {3}
        assert {turn["weights_version"] for turn in turns} == {step.step}
        assert all(len(turn["advantages"]["ig_grpo"]) == len(turn["tokens"]) for turn in turns)
        assert any(turn["gain"] for turn in turns)
    rows = read_metrics(tmp_path / "2" / "metrics.jsonl")
    assert [row["step"] for row in rows if "time/tracked" in row] == [0, 2, 3]


def test_the_order_takes_turns_between_data_sets_and_does_not_depend_on_the_count() -> None:
    questions = bundled_world().questions["train"]
    kinds = {question.dataset for question in questions}
    order = tracked_questions(questions, len(questions), seed=1)
    assert {question.dataset for question in order[: len(kinds)]} == kinds
    assert sorted(question.id for question in order) == sorted(question.id for question in questions)
    assert tracked_questions(questions, 3, seed=1) == order[:3]
    assert tracked_questions(questions, 3, seed=2) != order[:3]
    few = [Question("a", "who?", ("x",), "one"), Question("b", "when?", ("y",), "one")]
    assert len(tracked_questions(few, 5, seed=0)) == 2
    assert tracked_questions(few, 0, seed=0) == []


@pytest.mark.parametrize(
    ("algorithm", "config_class", "options"),
    [
        (PPO, PPOConfig, {"kl_in_reward": 0.01}),  # a critic and a reference policy
        (MRSearch, MRSearchConfig, {}),
    ],
)
def test_algorithms_that_need_more(
    small: dict[str, Any], tmp_path: Path, algorithm: Any, config_class: Any, options: dict[str, Any]
) -> None:
    if algorithm is MRSearch:
        options = {"env": EnvConfig(**{**vars(small["env"]), "attempts": 2})}
    config = config_class(**{**small, "steps": 1, "run_dir": tmp_path / "run", **options})
    train(algorithm(config), config)
    for step in records(tmp_path / "run").values():
        assert step.algorithms == (algorithm.name,)
        assert len(step.groups) == 2


class Unfit(RLOO):
    """Can't work with two groups."""

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """Fails on the tracked questions."""
        if len(buffer.groups) != 3:
            raise IndexError("three groups, please")
        return super().advantages(buffer)


def test_what_can_not_be_computed_is_left_out_with_a_warning(
    small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = RolloutConfig(questions_per_step=3, group_size=2, max_new_tokens=12)
    config = TrainConfig(**{**small, "steps": 1, "rollout": rollout, "run_dir": tmp_path / "run"})
    train(Unfit(config), config)
    assert "step 0: recorded without advantages (IndexError: three groups, please)" in capsys.readouterr().out
    assert [(step.algorithms, len(step.groups)) for step in records(tmp_path / "run").values()] == [((), 2)] * 2


class WithoutSamples(BM25Retriever):
    """A search engine without random passages, as a service may be."""

    def sample(self, n: int, rng: Any) -> list[Passage]:
        """There are none."""
        raise QueryError("no random passages")


def test_a_run_continues_without_random_passages_and_without_results(
    small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        **small,
        "steps": 1,
        "rollout": RolloutConfig(questions_per_step=4, group_size=3, max_new_tokens=12),
        "information_gain": InformationGainConfig(num_random=1),  # other questions of the batch have one
    }
    retriever = WithoutSamples(bundled_world().passages)
    config = IGGRPOConfig(**settings, run_dir=tmp_path / "run")
    train(IGGRPO(config), config, retriever)
    assert "recorded without information gains and advantages (no random passages)" in capsys.readouterr().out
    assert [step.algorithms for step in records(tmp_path / "run").values()] == [(), ()]

    monkeypatch.setattr(tracked, "collect", lambda *arguments, **options: RolloutBuffer([], 6))
    config = IGGRPOConfig(**settings, run_dir=tmp_path / "empty")
    train(IGGRPO(config), config, retriever)
    assert "step 1: retrieval failed for all 6 episodes" in capsys.readouterr().out
    assert records(tmp_path / "empty") == {}

    def too_long(*arguments: Any, **options: Any) -> RolloutBuffer:
        raise ConfigurationError("question 'q': its prompt has 900 tokens")

    monkeypatch.setattr(tracked, "collect", too_long)
    config = IGGRPOConfig(**settings, run_dir=tmp_path / "long")
    assert train(IGGRPO(config), config, retriever).finished
    assert "step 1: not rolled out (question 'q': its prompt has 900 tokens)" in capsys.readouterr().out


def test_an_engine_sleeps_while_tracked_questions_are_scored(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch, gpu=True)
    measure, asleep = TrackedQuestions._measure, []

    def measured(self: TrackedQuestions, buffer: RolloutBuffer) -> str:
        assert self.run.sampler.engine is not None
        asleep.append(self.run.sampler.engine.asleep)
        return measure(self, buffer)

    monkeypatch.setattr(TrackedQuestions, "_measure", measured)
    rollout = RolloutConfig(questions_per_step=2, group_size=3, max_new_tokens=12, engine="vllm")
    config = IGGRPOConfig(**{**small, "steps": 1, "rollout": rollout, "run_dir": tmp_path / "run"})
    assert train(IGGRPO(config), config).finished  # the step after it had weights again
    assert asleep == [True, True]


def test_a_resumed_run_records_what_an_interruption_prevented(small: dict[str, Any], tmp_path: Path) -> None:
    for steps in (2, 2, 3):
        config = IGGRPOConfig(**{**small, "steps": steps, "run_dir": tmp_path / "run"})
        train(IGGRPO(config), config)
        if steps == 2:
            after = tmp_path / "run" / "trajectories" / "tracked-000002.json.gz"
            before, written = after.read_bytes(), after.stat().st_mtime_ns
            after.unlink()
    assert (after.read_bytes(), after.stat().st_mtime_ns > written) == (before, True)
    assert [step.step for step in records(tmp_path / "run").values()] == [0, 2, 3]
