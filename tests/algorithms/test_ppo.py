"""PPO: token rewards, advantages and value targets by their equations, the critic, and runs that have one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from buffers import mixed_buffer
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_policy
from safetensors.torch import load_file

from algorithms.common.rollout.buffer import Flags, Float32s, RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.layout import checkpoints
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.run.run import Run
from algorithms.common.trainer import train
from algorithms.common.training.advantages import discounted_sums, gae
from algorithms.common.training.config import CriticConfig, OptimizerConfig
from algorithms.common.training.critic import Critic
from algorithms.common.training.loss import value_loss
from algorithms.ppo import PPO, PPOConfig, token_rewards
from algorithms.turn_ppo import TurnPPO, TurnPPOConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import bundled_world

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def numbers(buffer: RolloutBuffer, seed: int = 0) -> Float32s:
    """A made-up number per policy token."""
    return np.random.default_rng(seed).normal(size=int(buffer.policy_tokens.sum())).astype(np.float32)


# ---------------------------------------------------------------- token rewards


def test_the_outcome_is_the_reward_of_the_last_policy_token() -> None:
    assert token_rewards(mixed_buffer(), 0.0).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0.5]


def test_log_probs_above_the_reference_cost_reward() -> None:
    buffer = mixed_buffer()
    buffer.reference_logprobs = buffer.logprobs - np.linspace(-1, 2, 13, dtype=np.float32)
    change = token_rewards(buffer, 0.1) - token_rewards(buffer, 0.0)
    np.testing.assert_allclose(change, -0.1 * np.linspace(-1, 2, 13), atol=1e-6)


def test_a_policy_that_equals_its_reference_pays_nothing() -> None:
    buffer = mixed_buffer()
    buffer.reference_logprobs = buffer.logprobs
    assert (token_rewards(buffer, 5.0) == token_rewards(buffer, 0.0)).all()


# ---------------------------------------------------------------- advantages and targets


@given(LENGTHS, st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_gae_is_the_discounted_sum_of_temporal_differences(
    lengths: list[int], gamma: float, lam: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, sum(lengths)))
    expected = []
    start = 0
    for length in lengths:
        end = start + length
        for t in range(start, end):
            total = 0.0
            for k in range(t, end):
                following = values[k + 1] if k + 1 < end else 0.0
                total += (gamma * lam) ** (k - t) * (rewards[k] + gamma * following - values[k])
            expected.append(total)
        start = end
    np.testing.assert_allclose(gae(rewards, values, lengths, gamma=gamma, lam=lam), expected, atol=1e-9)


def test_sums_of_sequences_that_may_be_empty() -> None:
    assert discounted_sums([], [], 0.5).tolist() == []
    assert discounted_sums([1.0, 1.0, 1.0], [0, 2, 0, 1, 0], 0.5).tolist() == [1.5, 1.0, 1.0]


@pytest.mark.parametrize("gamma", [0.0, 1e-200, 0.01, 0.5, 0.9, 0.999, 1.0])
def test_sums_of_long_sequences_are_those_of_the_recursion(gamma: float) -> None:
    lengths = [2500, 1, 700, 3]
    values = np.random.default_rng(0).normal(size=sum(lengths))
    expected, start = [], 0
    for length in lengths:
        total, sums = 0.0, []
        for value in values[start : start + length][::-1]:
            total = value + gamma * total
            sums.append(total)
        expected += sums[::-1]
        start += length
    np.testing.assert_allclose(discounted_sums(values, lengths, gamma), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_with_lambda_1_the_critic_learns_returns_whatever_it_said(gamma: float) -> None:
    buffer = mixed_buffer()
    returns = discounted_sums(token_rewards(buffer, 0.0), buffer.policy_tokens, gamma)
    for seed in range(3):
        buffer.values = numbers(buffer, seed)
        targets = PPO(PPOConfig(gamma=gamma, gae_lambda=1.0)).value_targets(buffer)
        np.testing.assert_allclose(targets, returns, atol=1e-5)


def test_with_lambda_0_the_critic_learns_what_it_says_one_token_later() -> None:
    buffer = buffer_of([[trajectory([search_turn((2, 3), observation_ids=(9,)), answer_turn((4,))], 1.0)]])
    buffer.values = np.array([0.1, 0.2, 0.4], dtype=np.float32)
    targets = PPO(PPOConfig(gamma=0.5, gae_lambda=0.0)).value_targets(buffer)
    assert targets.tolist() == pytest.approx([0.1, 0.2, 1.0])


@pytest.mark.parametrize("observed", [1, 17])
def test_what_is_read_between_turns_is_no_step(observed: int) -> None:
    plain, holed = mixed_buffer(observed=0), mixed_buffer(observed=observed)
    plain.values = holed.values = numbers(plain)
    algorithm = PPO(PPOConfig(gamma=0.8, gae_lambda=0.7))
    np.testing.assert_array_equal(algorithm.advantages(plain), algorithm.advantages(holed))
    np.testing.assert_array_equal(algorithm.value_targets(plain), algorithm.value_targets(holed))


def test_advantages_are_whitened_over_the_batch_and_targets_are_not() -> None:
    buffer = mixed_buffer()
    buffer.values = numbers(buffer)
    algorithm = PPO(PPOConfig(gamma=0.9, gae_lambda=0.9))
    advantages = algorithm.advantages(buffer)
    assert advantages.mean() == pytest.approx(0, abs=1e-6)
    assert advantages.std(ddof=1) == pytest.approx(1, abs=1e-4)
    plain = gae(token_rewards(buffer, 0.0), buffer.values, buffer.policy_tokens, gamma=0.9, lam=0.9)
    np.testing.assert_allclose(algorithm.value_targets(buffer) - buffer.values, plain, atol=1e-6)


def test_a_token_that_went_better_than_expected_has_the_higher_advantage() -> None:
    buffer = buffer_of([[trajectory([answer_turn((2,))], 1.0), trajectory([answer_turn((2,))], 1.0)]])
    buffer.values = np.array([0.2, 0.9], dtype=np.float32)
    high, low = PPO(PPOConfig()).advantages(buffer)
    assert high > 0 > low


def test_without_values_there_is_an_error_that_says_so() -> None:
    for ask in (PPO(PPOConfig()).advantages, PPO(PPOConfig()).value_targets):
        with pytest.raises(RolloutBufferError, match=r"no values.*set buffer\.values"):
            ask(mixed_buffer())


def test_without_a_reference_a_kl_in_the_reward_is_an_error() -> None:
    buffer = mixed_buffer()
    buffer.values = numbers(buffer)
    with pytest.raises(RolloutBufferError, match=r"no reference_logprobs.*kl_in_reward to 0"):
        PPO(PPOConfig(kl_in_reward=0.1)).advantages(buffer)
    assert PPO(PPOConfig(kl_in_reward=0.1)).needs_reference
    assert not PPO(PPOConfig()).needs_reference


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 1.5}, r"gamma=1\.5: must be from 0 to 1"),
        ({"gae_lambda": -0.1}, r"gae_lambda=-0\.1: must be from 0 to 1"),
        ({"kl_in_reward": -1.0}, r"kl_in_reward=-1\.0: must be at least 0"),
    ],
)
def test_an_unusable_option_is_named(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PPOConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"warmup_steps": -1}, {"value_clip": 0.0}])
def test_an_unusable_option_of_the_critic_is_named(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"critic.{name}={value}: must be at least"):
        CriticConfig(**options)


# ---------------------------------------------------------------- value loss


@pytest.mark.parametrize(
    ("value", "old", "target", "expected"),
    [
        (0.5, 0.0, 1.0, 0.5 * 0.5**2),  # within the clip: the plain square
        (2.0, 0.0, 1.0, 0.5 * 1.0),  # far past the target: as bad as it is
        (1.0, 0.0, 1.0, 0.5 * 0.5**2),  # right, but by too far a jump: still the loss of the clipped value
        (-1.0, 0.0, 1.0, 0.5 * 2.0**2),  # away from the target: not clipped
    ],
)
def test_the_value_loss_by_hand(value: float, old: float, target: float, expected: float) -> None:
    loss = value_loss(*(torch.tensor([x]) for x in (value, old, target)), 0.5)
    assert loss.item() == pytest.approx(expected)


def test_a_value_that_moved_too_far_towards_its_target_has_no_gradient() -> None:
    values = torch.tensor([0.3, 0.8, -0.8], requires_grad=True)
    (gradient,) = torch.autograd.grad(value_loss(values, torch.zeros(3), torch.ones(3), 0.5).sum(), values)
    assert gradient.tolist() == pytest.approx([-0.7, 0.0, -1.8])


# ---------------------------------------------------------------- the critic


def critic(*, seeded_head: bool = False, lr: float = 1e-3, **optimizer: Any) -> Critic:
    """A critic on a tiny policy; `seeded_head`: one that has opinions before it has learnt anything."""
    made = Critic(tiny_policy(), CriticConfig(lr=lr), OptimizerConfig(**optimizer))
    if seeded_head:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            made.learner.module.head.weight.normal_(generator=generator)
    return made


def test_a_new_critic_says_0_everywhere() -> None:
    assert not critic().values(mixed_buffer()).any()


def test_a_value_is_that_of_the_state_before_its_token() -> None:
    made, buffer = critic(seeded_head=True), mixed_buffer()
    values = iter(made.values(buffer).tolist())
    for sequence in buffer.sequences:
        for place in np.flatnonzero(sequence.mask):
            alone = torch.from_numpy(np.append(sequence.ids[:place], 0))[None]  # whatever the token itself is
            with torch.no_grad():
                expected = made.learner.module(alone, torch.arange(place + 1)[None] == place).item()
            assert next(values) == pytest.approx(expected, abs=1e-5)
    assert next(values, None) is None


def learn(
    made: Critic, buffer: RolloutBuffer, targets: Float32s, steps: int, mask: Flags | None = None
) -> list[dict[str, float]]:
    """Updates on one buffer, each from the values before it."""
    metrics = []
    for step in range(1, steps + 1):
        buffer.values = made.values(buffer)
        metrics.append(made.update(buffer, targets, step, 0, mask))
    return metrics


def test_a_critic_learns_a_target_of_each_token() -> None:
    made, buffer = critic(lr=1e-2), mixed_buffer()
    targets = numbers(buffer)
    metrics = learn(made, buffer, targets, 60)
    assert metrics[0]["loss/value"] == pytest.approx(0.5 * np.mean(targets**2), rel=1e-5)
    assert metrics[0]["critic/explained_variance"] == 0.0
    assert metrics[-1]["loss/value"] < 0.05 * metrics[0]["loss/value"]
    assert metrics[-1]["critic/explained_variance"] > 0.9
    assert np.corrcoef(made.values(buffer), targets)[0, 1] > 0.95


def test_what_a_mask_excludes_does_not_reach_the_critic() -> None:
    buffer = mixed_buffer()
    mask = np.zeros(13, dtype=np.bool_)
    mask[[0, 4, 5, 9]] = True  # of each of the three trajectories, one or two tokens
    targets = numbers(buffer)
    made = [critic(seeded_head=True) for _ in range(3)]
    metrics = [
        *learn(made[0], buffer, targets, 1, mask),
        *learn(made[1], buffer, np.where(mask, targets, np.float32(99)), 1, mask),
        *learn(made[2], buffer, targets, 1),
    ]
    assert metrics[0] == metrics[1] != metrics[2]
    np.testing.assert_array_equal(made[0].values(buffer), made[1].values(buffer))
    # The mean is over the tokens of the mask.
    before = critic(seeded_head=True).values(buffer)
    assert metrics[0]["loss/value"] == pytest.approx(0.5 * np.mean((before - targets)[mask] ** 2), rel=1e-5)
    explained = 1 - np.var((targets - before)[mask]) / np.var(targets[mask])
    assert metrics[0]["critic/explained_variance"] == pytest.approx(explained, rel=1e-5)


def test_a_mask_of_all_tokens_is_none() -> None:
    buffer = mixed_buffer()
    whole, plain = critic(seeded_head=True), critic(seeded_head=True)
    targets = numbers(buffer)
    assert learn(whole, buffer, targets, 2, np.ones(13, dtype=np.bool_)) == learn(plain, buffer, targets, 2)
    np.testing.assert_array_equal(whole.values(buffer), plain.values(buffer))


def test_an_update_clips_how_far_values_go() -> None:
    buffer = mixed_buffer()
    targets = np.full(13, 100.0, dtype=np.float32)
    made = Critic(tiny_policy(), CriticConfig(lr=0.05, value_clip=0.1), OptimizerConfig(epochs=50, max_grad_norm=1e9))
    learn(made, buffer, targets, 1)
    values = made.values(buffer)
    assert 0.1 < values.min() <= values.max() < 10  # they passed the clip, then had no gradient left


def test_the_policy_stays_as_it_is() -> None:
    policy = tiny_policy()
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    buffer = mixed_buffer()
    learn(Critic(policy, CriticConfig(lr=0.1), OptimizerConfig()), buffer, numbers(buffer), 3)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())


def test_the_split_into_micro_batches_changes_no_number() -> None:
    buffer = mixed_buffer()
    targets = numbers(buffer)
    results = []
    for budget in (8, 100_000):
        made = critic(seeded_head=True, token_budget=budget)
        made.learner.module.double()  # what is left is the split, not rounding
        before = made.values(buffer)
        (metrics,) = learn(made, buffer, targets, 1)
        results.append((before, metrics["loss/value"], metrics["critic/explained_variance"], made.values(buffer)))
    for few, many in zip(*results, strict=True):
        np.testing.assert_allclose(few, many, atol=1e-6, rtol=1e-6)
    assert np.abs(results[0][0] - results[0][3]).max() > 1e-3  # the update did something


@pytest.mark.parametrize(("warmup", "moved"), [(0, 0.01), (10, 0.001)])
def test_the_learning_rate_warms_up(warmup: int, moved: float) -> None:
    buffer = mixed_buffer()
    made = Critic(tiny_policy(), CriticConfig(lr=0.01, warmup_steps=warmup), OptimizerConfig())
    learn(made, buffer, np.ones(13, dtype=np.float32), 1)
    assert made.learner.module.head.bias.item() == pytest.approx(
        moved, rel=1e-3
    )  # Adam's first step is the learning rate


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PPOConfig:
    """A run of three steps that takes about two seconds."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        for q in bundled_world().questions["train"][:3]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PPOConfig(
        steps=3,
        eval_every=0,
        save_every=1,
        env=EnvConfig(questions=(str(path),), eval_questions=(str(path),), max_searches=2),
        rollout=RolloutConfig(questions_per_step=3, group_size=2, max_new_tokens=12),
        optimizer=OptimizerConfig(num_minibatches=2, token_budget=600),
    )


def run_ppo(config: PPOConfig, run_dir: Path, **changes: Any) -> list[dict[str, float]]:
    """Metrics of a run, without the seconds."""
    config = replace(config, run_dir=run_dir, **changes)
    train(TurnPPO(config) if isinstance(config, TurnPPOConfig) else PPO(config), config)
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def training(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The rows of training steps."""
    return [row for row in rows if "reward" in row]


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (PPOConfig, {"kl_in_reward": 0.1}),  # the reference is the policy that the run began with
        (TurnPPOConfig, {"turn_reward": "gain"}),
    ],
)
def test_an_interrupted_run_resumes_with_its_critic(
    config_class: type[PPOConfig],
    changes: dict[str, Any],
    config: PPOConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_class(**{field.name: getattr(config, field.name) for field in fields(config)} | changes)
    whole = run_ppo(config, tmp_path / "whole")
    assert [row["step"] for row in training(whole)] == [1, 2, 3]
    assert all(row["loss/value"] > 0 for row in training(whole))

    class Crash(BaseException):
        pass

    record = Run.record

    def crash(self: Run, step: int, *arguments: Any) -> None:
        record(self, step, *arguments)
        if step == 2:
            raise Crash  # after the metrics were written, before the checkpoint was

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", crash)
        with pytest.raises(Crash):
            run_ppo(config, tmp_path / "broken")
    assert [path.name for path in checkpoints(tmp_path / "broken" / "checkpoints")] == ["step-000001"]
    assert run_ppo(config, tmp_path / "broken") == whole
    saved = [
        load_file(tmp_path / name / "checkpoints" / "step-000003" / "critic" / "00000.safetensors")
        for name in ("whole", "broken")
    ]
    assert {name.partition("/")[0] for name in saved[0]} == {"model", "optimizer"}
    assert all(torch.equal(weight, saved[1][name]) for name, weight in saved[0].items())


def test_a_kl_in_the_reward_is_felt_once_the_policy_has_moved(config: PPOConfig, tmp_path: Path) -> None:
    one = OptimizerConfig(token_budget=600, warmup_steps=0)
    free, bound = (
        training(run_ppo(config, tmp_path / str(beta), kl_in_reward=beta, steps=2, optimizer=one)) for beta in (0, 1)
    )
    assert free[0]["reward"] == bound[0]["reward"]
    assert free[0]["loss/value"] == pytest.approx(bound[0]["loss/value"], abs=1e-4)  # it is still its reference
    assert abs(free[1]["loss/value"] - bound[1]["loss/value"]) > 1e-3
    assert all(np.isfinite(value) for row in bound for value in row.values())
    assert all(row["policy/grad_norm"] > 0 for row in bound)
