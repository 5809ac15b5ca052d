"""Rollouts during updates: how stale they may be, and that nothing hangs, diverges or stays behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import fake_vllm
import pytest
from helpers import CountingRetriever
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bundled_policy, turn_end
from services import serving
from training_runs import question_file, run_ig_grpo, without_times

from algorithms.common import trainer
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout import asynchronous
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engines.base import EngineError
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.run import collector
from algorithms.common.run.collector import Collector
from algorithms.common.run.evaluator import Evaluator
from algorithms.common.run.metrics_log import MetricsLog
from algorithms.common.run.recorded_trajectories import load_recorded
from algorithms.common.trainer import train
from algorithms.common.training.config import LossConfig, OptimizerConfig
from algorithms.grpo import GRPO, GRPOConfig
from igsearch.testing.buffers import answer_turn, buffer_of, trajectory
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Group
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_retriever, bundled_world
from retrievers import Passage
from retrievers.lock import ProcessLock

SECONDS = 60  # after which something hangs


class Clerk:
    """Stands in for a sampler: it has weights of some version, which must not change while it samples."""

    def __init__(self) -> None:
        self.version = 0
        self.sampling = 0
        self.trained = Device()

    def sync_weights(self, version: int) -> None:
        assert not self.sampling
        assert version > self.version
        self.version = version


class Device:
    """Stands in for a policy on a CPU."""

    class device:
        type = "cpu"


class Scripted(Collector):
    """Collects a trajectory of one token per batch, each batch within the given seconds."""

    def __init__(self, max_staleness: int, seconds: list[float], processes: Processes | None = None) -> None:
        config = TrainConfig(steps=len(seconds), rollout=RolloutConfig(max_staleness=max_staleness))
        self.clerk = Clerk()
        self.seconds = seconds
        self.failing: dict[int, BaseException] = {}
        sampler = cast(Sampler, self.clerk)
        super().__init__(config, sampler, cast(Any, None), [], processes or Processes(), 0)

    def _play(self, step: int, refill: int = 0) -> RolloutBuffer:
        assert not self.clerk.sampling
        self.clerk.sampling += 1
        before = self.clerk.version
        until = time.perf_counter() + self.seconds[step - 1]
        while time.perf_counter() < until and not self._stopped.is_set():
            time.sleep(0.0005)
        if step in self.failing:
            raise self.failing[step]
        turn = answer_turn([7])
        turn.weights_version = before
        self.clerk.sampling -= 1
        assert self.clerk.version == before
        return buffer_of([[trajectory([turn], number=step)]])


def trained(
    rollouts: Scripted, updates: list[float], *, refills: set[int] = frozenset(), pauses: set[int] = frozenset()
) -> list[int]:
    """Versions of the batches of a run in which updates take the given seconds, as the training loop collects them."""
    versions = []
    for step, seconds in enumerate(updates, start=1):
        batch = rollouts.batch(step)
        assert batch.trajectories[0].question.id == f"q{step}"
        versions.append(int(batch.versions[0]))
        assert all(rollouts.is_fresh(group, step) for group in batch.groups)
        if step in refills:
            assert rollouts.refill(step, 1).versions.tolist() == [step - 1]
        rollouts.run_ahead()
        time.sleep(seconds)
        rollouts.updated(step)
        if step in pauses:
            rollouts.pause()
            assert (rollouts.clerk.version, rollouts.clerk.sampling) == (step, 0)
    rollouts.close()
    return versions


def threads() -> list[str]:
    """Names of the threads that collect rollouts."""
    return [thread.name for thread in threading.enumerate() if thread.name == "rollouts"]


# ---------------------------------------------------------------- what is collected when

DELAYS = st.lists(st.tuples(st.sampled_from([0.0, 0.002, 0.008]), st.sampled_from([0.0, 0.002, 0.008])), min_size=1)
STEPS = st.sets(st.integers(1, 8))


@given(delays=DELAYS.filter(lambda d: len(d) <= 8), most=st.integers(1, 3), refills=STEPS, pauses=STEPS)
@settings(max_examples=40, deadline=None)
def test_no_batch_is_staler_than_allowed_whatever_takes_how_long(
    delays: list[tuple[float, float]], most: int, refills: set[int], pauses: set[int]
) -> None:
    rollouts = Scripted(most, [collecting for collecting, _ in delays])
    versions = trained(rollouts, [updating for _, updating in delays], refills=refills, pauses=pauses)
    assert versions[0] == 0
    assert versions == sorted(versions)
    assert all(0 <= step - version <= most for step, version in enumerate(versions))
    assert not threads()


def test_one_step_ahead_is_the_same_at_any_speed() -> None:
    for collecting, updating in ((0.0, 0.01), (0.01, 0.0)):
        assert trained(Scripted(1, [collecting] * 5), [updating] * 5, refills={2}, pauses={3}) == [0, 0, 1, 2, 3]


def test_two_steps_ahead_are_used_if_updates_take_longer() -> None:
    assert trained(Scripted(2, [0.0] * 7), [0.05] * 7) == [0, 0, 0, 1, 2, 3, 4]
    assert trained(Scripted(2, [0.05] * 4), [0.0] * 4) == [0, 0, 1, 2]  # the producer never gets so far ahead


def test_without_staleness_nothing_runs_in_a_thread() -> None:
    rollouts = Scripted(0, [0.0] * 3)
    for step in (1, 2, 3):
        assert rollouts.batch(step).versions.tolist() == [step - 1]
        rollouts.run_ahead()
        rollouts.pause()
        assert rollouts._thread is None
        rollouts.updated(step)
        assert rollouts.clerk.version == step


def test_waiting_and_collecting_are_timed() -> None:
    rollouts = Scripted(1, [0.05] * 3)
    for step, seconds in enumerate([0.2, 0.0, 0.0], start=1):
        rollouts.batch(step)
        assert (rollouts.hidden > 0.04) == (step == 2)  # while step 1 was updated; step 3 was waited for
        rollouts.run_ahead()
        time.sleep(seconds)
        rollouts.updated(step)
    rollouts.close()


# ---------------------------------------------------------------- several processes


class Rank(Processes):
    """One of two processes in threads of this one."""

    def __init__(self, rank: int, shared: dict[int, Any], meeting: threading.Barrier) -> None:
        super().__init__(rank, 2)
        self.shared, self.meeting = shared, meeting

    def gather(self, value: Any) -> list[Any]:
        self.shared[self.rank] = value
        self.meeting.wait()
        found = [self.shared[0], self.shared[1]]
        self.meeting.wait()
        return found


@given(
    delays=st.lists(DELAYS.filter(lambda d: len(d) >= 8), min_size=2, max_size=2),
    most=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_processes_of_any_speed_agree_on_the_weights_of_every_batch(
    delays: list[list[tuple[float, float]]], most: int, data: st.DataObject
) -> None:
    refills, pauses = data.draw(STEPS), data.draw(STEPS)
    shared: dict[int, Any] = {}
    meeting = threading.Barrier(2, timeout=SECONDS)
    ranks = [
        Scripted(most, [collecting for collecting, _ in mine[:8]], Rank(rank, shared, meeting))
        for rank, mine in enumerate(delays)
    ]
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(trained, rank, [updating for _, updating in mine[:8]], refills=refills, pauses=pauses)
            for rank, mine in zip(ranks, delays, strict=True)
        ]
        first, second = (run.result(SECONDS) for run in runs)
    assert first == second
    assert all(0 <= step - version <= most for step, version in enumerate(first))


# ---------------------------------------------------------------- what goes wrong


def test_an_error_of_the_thread_is_raised_as_it_is_where_its_batch_is_needed() -> None:
    """The step before it is complete: groups can be replaced, and the weights evaluated."""
    rollouts = Scripted(1, [0.0] * 4)
    failure = EngineError("the server has gone")
    rollouts.failing[2] = failure
    rollouts.batch(1)
    rollouts.run_ahead()
    rollouts.pause()
    rollouts.clerk.sampling = 0
    assert rollouts.refill(1, 1).versions.tolist() == [0]
    rollouts.run_ahead()
    rollouts.updated(1)
    rollouts.pause()
    assert rollouts.clerk.version == 1
    with pytest.raises(EngineError) as raised:
        rollouts.batch(2)
    assert raised.value is failure
    rollouts.close()
    assert not threads()


def test_closing_ends_a_batch_in_its_middle() -> None:
    rollouts = Scripted(1, [0.0, 1000.0])
    rollouts.batch(1)
    rollouts.run_ahead()
    rollouts.close()
    rollouts.close()  # as often as one likes
    assert not threads()


def test_closing_does_not_wait_for_what_never_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "CLOSE_SECONDS", 0.05)
    entered, gate = threading.Event(), threading.Event()

    class Hung(Scripted):
        def _play(self, step: int, refill: int = 0) -> RolloutBuffer:
            if step == 1:
                return super()._play(step, refill)
            entered.set()
            gate.wait(SECONDS)
            raise EngineError("it has answered too late")

    rollouts = Hung(1, [0.0] * 2)
    rollouts.batch(1)
    rollouts.run_ahead()
    assert entered.wait(SECONDS)
    rollouts.close()
    assert rollouts._thread is not None
    assert rollouts._thread.is_alive()
    assert rollouts._thread.daemon
    gate.set()
    rollouts._thread.join(SECONDS)
    assert not threads()


def test_a_batch_that_waits_for_a_search_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(asynchronous, "CLOSE_SECONDS", 0.01)
    stopped, gate = threading.Event(), threading.Event()

    class Hung(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            stopped.set()
            assert gate.wait(SECONDS)
            return super().search(queries, k)

    policy, questions = bundled_policy(), bundled_world().questions["train"][:1]
    decoder = Decoder(policy, turn_end(policy), slots=1, max_new_tokens=24, temperature=1e-3, asynchronous=True)
    stepper = EpisodeStepper(questions, Hung(bundled_retriever()), None, EpisodeRules())
    try:
        with pytest.raises(collector._StoppedError):
            play(collector._interruptible(decoder, stopped), stepper, questions, seed=(0,))
    finally:
        gate.set()
    assert decoder.free == 1


# ---------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that takes a few seconds."""
    questions = question_file(tmp_path_factory.mktemp("small") / "questions.jsonl", 6)
    return {
        "steps": 3,
        "eval_every": 0,
        "eval_limit": 1,
        "save_every": 1,
        "policy": PolicyConfig(path="bundled"),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12, max_staleness=1),
        "optimizer": OptimizerConfig(token_budget=600),
    }


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [row for row in without_times(path) if "reward" in row]


def test_a_run_one_step_ahead_is_reproducible_and_says_how_stale_it_is(small: dict[str, Any], tmp_path: Path) -> None:
    first, again = (without_times(run_ig_grpo(small, tmp_path / name)) for name in ("a", "b"))
    assert first == again
    rows = steps_of(tmp_path / "a")
    assert [row["staleness/max"] for row in rows] == [0, 1, 1]
    assert [row["staleness/mean"] for row in rows] == [0, 1, 1]
    assert {row["staleness/dropped_groups"] for row in rows} == {0}
    assert rows[0]["off_policy/abs_mean"] < 1e-5 < 1e-4 < rows[2]["off_policy/abs_mean"]
    assert rows[0]["importance/mean"] == pytest.approx(1, abs=1e-5)
    assert not any(key.startswith("mismatch/") for row in rows for key in row)
    assert not threads()
    recorded = load_recorded(tmp_path / "a" / "trajectories" / "step-000002.json.gz")
    turns = [turn for group in recorded.groups for t in group["trajectories"] for turn in t["turns"]]
    assert {turn["weights_version"] for turn in turns} == {0}


@pytest.mark.parametrize(
    ("cap", "level", "optimizer"),
    [(None, "token", {}), (2.0, "sequence", {"epochs": 2, "num_minibatches": 2})],
    ids=["off", "recomputed"],
)
def test_forms_of_importance_weights_in_a_run(
    cap: float | None, level: Any, optimizer: dict[str, int], small: dict[str, Any], tmp_path: Path
) -> None:
    changes = {
        "loss": LossConfig(importance_sampling=level, importance_sampling_cap=cap),
        "optimizer": replace(small["optimizer"], **optimizer),
        "steps": 2,
    }
    rows = steps_of(run_ig_grpo(small, tmp_path / "run", **changes))
    assert all(("importance/mean" in row) == (cap is not None) for row in rows)
    assert all("off_policy/abs_mean" in row for row in rows)


def test_the_questions_and_draws_of_a_step_are_those_of_a_run_without_staleness(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of 0 the weights never change, so that the episodes must be the same."""
    played: dict[int, list[Any]] = {0: [], 1: []}
    most = 0

    def kept(self: GRPO, group: Group) -> bool:
        played[most].append([[turn.completion_ids for turn in t.turns] for t in group.trajectories])
        return True

    monkeypatch.setattr(GRPO, "keep", kept)
    for most in (0, 1):
        changes = {
            "rollout": replace(small["rollout"], max_staleness=most),
            "optimizer": replace(small["optimizer"], lr=0.0),
            "run_dir": tmp_path / str(most),
        }
        config = GRPOConfig(**{**small, **changes})
        train(GRPO(config), config)
    assert played[0] == played[1]
    assert len(played[0]) == 3 * 3


@pytest.mark.parametrize("engine", ["transformers", "vllm_server"])
def test_engines_write_ahead_too(engine: str, small: dict[str, Any], tmp_path: Path) -> None:
    """Their log-probs are the trainer's where the weights are, and drift from them where these have changed."""
    with ExitStack() as stack:
        served = {}
        if engine == "vllm_server":
            served["server_url"] = stack.enter_context(serving(fake_vllm.Server(str(POLICY_FOLDER)).app))
        rollout = replace(small["rollout"], engine=engine, kv_cache_tokens=8_192, **served)
        rows = steps_of(run_ig_grpo(small, tmp_path / "run", rollout=rollout))
    assert [row["staleness/mean"] for row in rows] == [0, 1, 1]
    assert rows[0]["off_policy/abs_mean"] < 1e-4 < 1e-3 < rows[2]["off_policy/abs_mean"] < 0.2
    assert not threads()


def test_replaced_groups_are_written_by_the_current_weights(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions: list[list[int]] = []

    def batch_metrics(buffer: RolloutBuffer, *arguments: Any, **options: Any) -> dict[str, float]:
        versions.append([t.turns[0].weights_version for t in (group.trajectories[0] for group in buffer.groups)])
        return measured(buffer, *arguments, **options)

    measured = trainer.batch_metrics
    monkeypatch.setattr(trainer, "batch_metrics", batch_metrics)
    rejected = iter([False, True, False] * 100)
    monkeypatch.setattr(GRPO, "keep", lambda self, group: not next(rejected))
    config = GRPOConfig(**{**small, "run_dir": tmp_path})
    train(GRPO(config), config)
    assert versions == [[0, 0, 0], [0, 0, 1], [1, 1, 2]]


def test_groups_that_are_too_stale_are_dropped_and_replaced(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch of the thread can be: here it says that older weights wrote it, as an engine might."""
    play = Collector._play
    stale = {1: 0, 2: 3, 3: 1}  # groups, by step

    def played(self: Collector, step: int, refill: int = 0) -> RolloutBuffer:
        batch = play(self, step, refill)
        if not refill:
            for group in batch.groups[: stale[step]]:
                group.trajectories[-1].turns[-1].weights_version = -1
        return batch

    monkeypatch.setattr(Collector, "_play", played)
    rows = steps_of(run_ig_grpo(small, tmp_path / "run"))
    assert [row["staleness/dropped_groups"] for row in rows] == [0, 3, 1]
    assert [row["staleness/max"] for row in rows] == [0, 0, 1]
    assert 0 < rows[2]["staleness/mean"] < 1
    assert all(row["episodes"] == 9 for row in rows)


def test_evaluations_use_the_newest_weights(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = []
    play = Evaluator.play

    def played(self: Evaluator, *arguments: Any) -> Any:
        versions.append(self.sampler.version)
        return play(self, *arguments)

    monkeypatch.setattr(Evaluator, "play", played)
    rollout = replace(small["rollout"], max_staleness=2)
    run_ig_grpo(small, tmp_path / "run", rollout=rollout, eval_every=2)
    assert versions == [0, 2, 3]


def test_a_resumed_run_collects_again_what_was_in_flight(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def questions_of_step(*arguments: Any, seed: int, step: int, refill: int = 0) -> Any:
        asked.append((step, refill))
        return drawn(*arguments, seed=seed, step=step, refill=refill)

    drawn = collector.questions_of_step
    monkeypatch.setattr(collector, "questions_of_step", questions_of_step)
    run_ig_grpo(small, tmp_path / "run", steps=2)
    run_ig_grpo(small, tmp_path / "run", steps=3)
    assert asked == [(step, 0) for step in (1, 2, 3)]
    assert [row["staleness/max"] for row in steps_of(tmp_path / "run")] == [0, 1, 0]


def test_all_is_closed_if_ctrl_c_comes_again_while_the_thread_is_waited_for(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    ended = Collector.close

    def interrupted(self: Collector) -> None:
        ended(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Collector, "close", interrupted)
    monkeypatch.setattr(Sampler, "close", lambda self: closed.append("engine"))
    written = MetricsLog.close

    def close_log(self: MetricsLog, *, failed: bool) -> None:
        closed.append("log")
        written(self, failed=failed)

    monkeypatch.setattr(MetricsLog, "close", close_log)
    with pytest.raises(KeyboardInterrupt):
        run_ig_grpo(small, tmp_path / "run", steps=1)
    assert closed == ["log", "engine"]
    ProcessLock(tmp_path / "run").release()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_ctrl_c_ends_the_thread_too(
    error: type[BaseException], small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def policy_update(*_: Any, **__: Any) -> dict[str, float]:
        assert threads()  # the next batch is being collected
        raise error

    monkeypatch.setattr(trainer, "policy_update", policy_update)
    with pytest.raises(error):
        run_ig_grpo(small, tmp_path / "run")
    assert not threads()


def test_an_error_in_the_rollouts_of_a_thread_ends_the_run(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = collector.collect

    def failing(*arguments: Any, seed: tuple[int, int, int], **options: Any) -> RolloutBuffer:
        if seed[1] == 3:
            raise EngineError("the engine has stopped")
        return collect(*arguments, seed=seed, **options)

    monkeypatch.setattr(collector, "collect", failing)
    with pytest.raises(EngineError, match="the engine has stopped"):
        run_ig_grpo(small, tmp_path / "run", eval_every=2)
    assert [row["step"] for row in steps_of(tmp_path / "run")] == [1, 2]
    # The step before is complete.
    assert [row["step"] for row in without_times(tmp_path / "run") if "dev/em" in row] == [2]
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()
    assert not threads()
