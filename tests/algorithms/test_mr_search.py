"""MR-Search: advantages of attempts by their equations, buffers that hold attempts, and training with reflections."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.run.run import Run
from algorithms.common.trainer import collect_batch, train
from algorithms.common.training.config import OptimizerConfig
from algorithms.mr_search import MRSearch, MRSearchConfig, attempt_advantages, attempt_ends
from algorithms.rloo import RLOO
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.trajectory import CONTEXT_FULL, Attempt, Trajectory
from igsearch_env.world.bundled import bundled_world

REWARDS = st.sampled_from([0.0, 0.25, 1.0])
GROUPS = st.lists(st.lists(st.lists(REWARDS, min_size=1, max_size=4), min_size=1, max_size=4), min_size=1, max_size=3)


def attempted(rewards: Sequence[float], number: int = 0, *, unfinished: bool = False) -> Trajectory:
    """An attempt per reward: a search of 3 tokens and an answer of 2; `unfinished` ones end with a search."""
    member = trajectory([], rewards[-1] if rewards else 0.0, number)
    for reward in rewards:
        member.turns += [search_turn(range(3), observation_ids=(7, 7)), answer_turn(range(2))]
        member.turns[-1].observation_ids = (8,)  # the reflection
        member.attempts.append(Attempt(len(member.turns), "y", reward))
    if unfinished:
        member.turns.append(search_turn(range(3), observation_ids=(7, 7)))
        member.stop_reason = CONTEXT_FULL
    return member


def buffer_with(groups: Sequence[Sequence[Sequence[float]]]) -> RolloutBuffer:
    """A trajectory per list of the rewards of its attempts."""
    return buffer_of([[attempted(row, number) for row in group] for number, group in enumerate(groups)])


def per_attempt(buffer: RolloutBuffer, gamma: float = 1.0) -> list[list[float]]:
    """The advantage of each attempt's tokens, which must be one; attempts have 5 tokens, unfinished ones 3."""
    flat = MRSearch(MRSearchConfig(gamma=gamma)).advantages(buffer).tolist()
    assert len(flat) == buffer.policy_tokens.sum()
    values, position = [], 0
    for member in buffer.trajectories:
        row, start = [], 0
        for end, _ in attempt_ends(member):
            count = sum(len(turn.completion_ids) for turn in member.turns[start:end])
            assert len(set(flat[position : position + count])) == 1
            row.append(flat[position])
            position, start = position + count, end
        values.append(row)
    return values


# ---------------------------------------------------------------- equations


def test_an_attempt_is_compared_with_the_same_attempt_of_its_siblings() -> None:
    ours = per_attempt(buffer_with([[[0, 0, 1], [0, 1, 1], [1, 1, 0]]]), gamma=0.0)
    np.testing.assert_allclose(ours, [[-0.5, -1.0, 0.5], [-0.5, 0.5, 0.5], [1.0, 0.5, -1.0]], atol=1e-6)


def test_an_attempt_earns_what_those_after_it_earn() -> None:
    buffer = buffer_with([[[0, 0, 1], [0, 0, 0]]])
    np.testing.assert_allclose(per_attempt(buffer), [[1, 1, 1], [-1, -1, -1]], atol=1e-6)
    np.testing.assert_allclose(per_attempt(buffer, gamma=0.5), [[0.25, 0.5, 1], [-0.25, -0.5, -1]], atol=1e-6)


@given(GROUPS, st.floats(0, 1))
def test_any_attempts_follow_the_equations(groups: list[list[list[float]]], gamma: float) -> None:
    ours = iter(per_attempt(buffer_with(groups), gamma))
    for group in groups:
        for i, row in enumerate(group):
            differences = []
            for n, reward in enumerate(row):
                others = [other[n] for j, other in enumerate(group) if j != i and len(other) > n]
                differences.append(reward - np.mean(others) if others else 0.0)
            expected = [sum(gamma ** (k - n) * differences[k] for k in range(n, len(row))) for n in range(len(row))]
            np.testing.assert_allclose(next(ours), expected, atol=1e-5)


@given(GROUPS)
def test_the_differences_of_an_attempt_sum_to_zero_over_a_group(groups: list[list[list[float]]]) -> None:
    members = [row for group in groups for row in group]
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    differences = attempt_advantages(members, owners, gamma=0.0)
    for owner in range(len(groups)):
        own = [row for row, other in zip(differences, owners, strict=True) if other == owner]
        for n in range(max(map(len, own))):
            assert sum(row[n] for row in own if len(row) > n) == pytest.approx(0, abs=1e-9)


def test_groups_are_not_compared_with_each_other() -> None:
    alone = per_attempt(buffer_with([[[0, 1], [1, 0]]]))
    beside = per_attempt(buffer_with([[[0, 1], [1, 0]], [[1, 1], [1, 0]]]))
    assert beside[:2] == alone


def test_only_rollouts_that_came_to_an_attempt_are_compared_there() -> None:
    ours = per_attempt(buffer_with([[[0, 1, 1], [1, 0], [0]]]))
    # The third attempt of the first is alone; its second differs from the second's by 1.
    assert ours == [pytest.approx(row) for row in ([0.5, 1.0, 0.0], [0.0, -1.0], [-0.5])]


def test_an_attempt_that_the_context_cut_short_earned_nothing() -> None:
    cut = attempted([1.0], unfinished=True)
    assert attempt_ends(cut) == [(2, 1.0), (3, 0.0)]
    buffer = buffer_of([[cut, attempted([1.0, 1.0])]])
    np.testing.assert_allclose(per_attempt(buffer), [[-1, -1], [1, 1]], atol=1e-6)


def test_a_first_attempt_that_was_cut_short_is_one_attempt() -> None:
    assert attempt_ends(attempted([], unfinished=True)) == [(1, 0.0)]


def test_a_rollout_alone_teaches_nothing() -> None:
    assert per_attempt(buffer_with([[[1, 0, 1]]])) == [[0.0, 0.0, 0.0]]


def test_attempts_that_all_earn_the_same_teach_nothing() -> None:
    assert not np.any(per_attempt(buffer_with([[[1, 0]] * 4, [[0.25, 0.25]] * 3])))


@given(st.lists(st.lists(REWARDS, min_size=2, max_size=5), min_size=1, max_size=3))
def test_with_one_attempt_it_is_rloo(groups: list[list[float]]) -> None:
    buffer = buffer_with([[[reward] for reward in group] for group in groups])
    config = MRSearchConfig(env=EnvConfig(attempts=1))
    np.testing.assert_allclose(MRSearch(config).advantages(buffer), RLOO(config).advantages(buffer), atol=1e-6)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_an_impossible_discount_is_named(gamma: float) -> None:
    with pytest.raises(ConfigurationError, match=r"gamma=.*must be from 0 to 1"):
        MRSearchConfig(gamma=gamma)


def test_an_impossible_number_of_attempts_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"env\.attempts=0: must be from 1 to 100"):
        EnvConfig(attempts=0)


# ---------------------------------------------------------------- disk


def test_a_saved_buffer_keeps_its_attempts(tmp_path: Path) -> None:
    cut = attempted([0.25], unfinished=True)
    cut.attempts[0] = Attempt(2, None, 0.25)
    buffer = buffer_of([[attempted([0.0, 1.0]), cut]])
    buffer.save(tmp_path / "rollouts.jsonl.gz")
    loaded = RolloutBuffer.load(tmp_path / "rollouts.jsonl.gz")
    assert [t.attempts for t in loaded.trajectories] == [t.attempts for t in buffer.trajectories]
    assert loaded == buffer
    assert per_attempt(loaded) == per_attempt(buffer)


def test_a_buffer_from_before_there_were_attempts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl.gz"
    buffer_with([[[1.0], [0.0]]]).save(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        header, *rows = file.read().splitlines()
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join([json.dumps({**json.loads(header), "format": 1}), *rows]))
    with pytest.raises(RolloutBufferError, match=r"old.jsonl.gz: format 1, this version reads 2; collect again"):
        RolloutBuffer.load(path)


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MRSearchConfig:
    """A run of two steps, two attempts an episode."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        for q in bundled_world().questions["train"][:6]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return MRSearchConfig(
        steps=2,
        seed=1,  # some episodes of each step are right
        eval_every=0,
        env=EnvConfig(questions=(str(path),), eval_questions=(str(path),), attempts=2),
        rollout=RolloutConfig(questions_per_step=3, group_size=4, max_new_tokens=16),
        optimizer=OptimizerConfig(token_budget=600),
    )


def test_three_attempts_are_the_default() -> None:
    assert MRSearchConfig().env.attempts == 3


def test_it_trains_with_reflections_in_its_transcripts(config: MRSearchConfig, tmp_path: Path) -> None:
    config = replace(config, run_dir=tmp_path / "run")
    train(MRSearch(config), config)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(12 < row["attempts"] <= 24 for row in rows)
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    (first, *_) = sorted((tmp_path / "run" / "transcripts").glob("*.txt"))
    episodes = first.read_text(encoding="utf-8").split("\n\n")
    assert len(episodes) == 4
    for episode in episodes:
        asked = episode.splitlines()[0].partition("): ")[2]
        assert episode.count(asked) == 2  # at the beginning, and between the attempts


def test_recorded_tokens_are_what_the_policy_read_and_wrote(config: MRSearchConfig, tmp_path: Path) -> None:
    config = replace(config, run_dir=tmp_path / "run")
    algorithm = MRSearch(config)
    with Run(algorithm, config) as run:
        buffer = collect_batch(run, algorithm, 1)
        policy, temperature = run.policy, config.rollout.temperature
        again = run.learner.map_policy_tokens(
            buffer, lambda ids, mask: policy.token_logprobs(ids, mask, temperature)[0]
        )
        np.testing.assert_allclose(buffer.logprobs, again, atol=1e-4)
        assert sum(len(t.attempts) == 2 for t in buffer.trajectories) >= 6
        for member in buffer.trajectories:
            assert 1 <= len(member.attempts) <= 2
            answered = member.turns[member.attempts[0].end - 1]
            assert member.question.text in answered.observation
            assert answered.observation_ids == policy.tokenizer.encode(answered.observation)
        assert len(algorithm.advantages(buffer)) == len(buffer.logprobs)


def test_evaluation_reflects_as_training_does(config: MRSearchConfig, tmp_path: Path) -> None:
    config = replace(config, run_dir=tmp_path / "run")
    with Run(MRSearch(config), config) as run:
        episodes = play(run.sampler.decoder(8, temperature=0.0), run.stepper, run.test_questions, seed=(0,))
    assert [len(t.attempts) for t in episodes] == [2] * 6
    assert all(t.prediction == t.attempts[-1].prediction for t in episodes)
