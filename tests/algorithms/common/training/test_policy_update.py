"""The update of a policy on a buffer, without a run around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from buffers import mixed_buffer
from models import learner_of, tiny_policy
from torch import Tensor

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.config import LossConfig
from algorithms.common.training.policy_update import policy_update, recompute_logprobs, reference_logprobs


def updated(
    loss: LossConfig | None = None,
    *,
    seed: int = 0,
    step: int = 1,
    reference: Policy | None = None,
    importance: float | None = None,
    **optimizer: Any,
) -> tuple[dict[str, float], Tensor]:
    """Metrics of one update of a tiny policy, and its weights after it."""
    policy, buffer = tiny_policy(), mixed_buffer()
    learner = learner_of(policy, **optimizer)
    advantages = np.linspace(-1, 1.1, int(buffer.policy_tokens.sum())).astype(np.float32)
    recompute_logprobs(learner, buffer, 1.0)
    if importance is not None:
        buffer.importance = np.full(len(advantages), importance, dtype=np.float32)
    metrics = policy_update(
        learner, reference, buffer, advantages, loss or LossConfig(), temperature=1.0, lr=0.01, step=step, seed=seed
    )
    return metrics, torch.cat([p.detach().flatten() for p in policy.model.parameters()])


def test_an_update_moves_the_weights_and_says_how() -> None:
    start = torch.cat([p.detach().flatten() for p in tiny_policy().model.parameters()])
    metrics, weights = updated()
    assert 0.009 < (weights - start).abs().max() < 0.011  # Adam's first step is the learning rate
    assert metrics["policy/lr"] == 0.01
    assert metrics["policy/grad_norm"] > 0
    assert metrics["policy/kl_old"] == pytest.approx(0, abs=1e-6)  # measured before the only step
    assert metrics.keys() == {
        *("loss/policy", "policy/clip_fraction", "policy/dual_clip_fraction", "policy/kl_old"),
        *("policy/grad_norm", "policy/lr", "update/read_share"),
    }
    assert metrics["update/read_share"] == 1  # every token has an advantage


def test_seed_and_step_decide_how_trajectories_are_dealt_out_to_mini_batches() -> None:
    runs = {
        (seed, step): updated(num_minibatches=2, seed=seed, step=step)[1]
        for seed, step in ((0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (0, 3))
    }
    assert torch.equal(runs[0, 1], updated(num_minibatches=2)[1])
    assert any(not torch.equal(runs[0, 1], weights) for (seed, _), weights in runs.items() if seed)
    assert any(not torch.equal(runs[0, 1], weights) for (_, step), weights in runs.items() if step > 1)
    assert torch.equal(updated(seed=0)[1], updated(seed=5, step=3)[1])  # one mini-batch keeps its order


def test_every_epoch_is_a_pass_over_the_buffer() -> None:
    (once, first), (twice, second) = updated(), updated(epochs=2)
    assert not torch.equal(first, second)
    assert twice["policy/kl_old"] != once["policy/kl_old"]  # the second pass starts from other weights


def test_the_reference_is_felt_through_the_kl_term_alone() -> None:
    other = tiny_policy(seed=3)
    plain, weights = updated(reference=other)
    assert "policy/kl_reference" not in plain
    bound, bound_weights = updated(LossConfig(kl_coef=0.5), reference=other)
    assert bound["policy/kl_reference"] > 0
    assert not torch.equal(weights, bound_weights)
    own, _ = updated(LossConfig(kl_coef=0.5), reference=tiny_policy())
    assert own["policy/kl_reference"] == pytest.approx(0, abs=1e-6)


def test_importance_weighs_the_advantages() -> None:
    plain, halved = updated()[0], updated(importance=0.5)[0]
    assert halved["policy/grad_norm"] == pytest.approx(plain["policy/grad_norm"] / 2, rel=1e-4)
    assert halved["loss/policy"] == pytest.approx(plain["loss/policy"] / 2, abs=1e-6)


OFF = LossConfig(importance_sampling_cap=None)


def off_policy_buffer() -> RolloutBuffer:
    """A buffer whose log-probs differ from those of a tiny policy by up to a nat or so."""
    buffer = mixed_buffer()
    recompute_logprobs(learner_of(tiny_policy()), buffer, 1.0)
    noise = np.random.default_rng(0).normal(scale=0.3, size=len(buffer.logprobs)).astype(np.float32)
    buffer.set_logprobs(buffer.logprobs + noise)
    return buffer


WEIGHED = [LossConfig(), LossConfig(importance_sampling_cap=1.05), LossConfig(importance_sampling="sequence")]


def test_recomputed_log_probs_are_the_trainers_with_weights_if_asked() -> None:
    learner, buffer = learner_of(tiny_policy()), mixed_buffer()
    sampled = buffer.logprobs
    measured = recompute_logprobs(learner, buffer, 1.0, OFF)
    assert buffer.importance is None
    assert measured["mismatch/abs_max"] == pytest.approx(float(np.abs(sampled - buffer.logprobs).max()))
    again = recompute_logprobs(learner, buffer, 1.0, LossConfig())  # they are the trainer's already
    assert again.pop("importance/mean") == 1
    assert set(again.values()) == {0.0}
    assert buffer.importance is not None
    assert (buffer.importance == 1).all()


@pytest.mark.parametrize("loss", WEIGHED, ids=lambda loss: f"{loss.importance_sampling} {loss.importance_sampling_cap}")
def test_weights_of_a_buffer_are_those_of_its_trajectories(loss: LossConfig) -> None:
    buffer, cap = off_policy_buffer(), loss.importance_sampling_cap
    sampled = buffer.logprobs
    measured = recompute_logprobs(learner_of(tiny_policy()), buffer, 1.0, loss)
    assert cap is not None
    expected: list[float] = []
    for start, count in zip(buffer.first_token.tolist(), buffer.policy_tokens.tolist(), strict=True):
        ratios = np.exp((buffer.logprobs - sampled)[start : start + count].astype(np.float64))
        if loss.importance_sampling == "sequence":
            ratios = np.full(count, ratios.prod())
        expected += np.minimum(ratios, cap).tolist()
    assert buffer.importance is not None
    np.testing.assert_allclose(buffer.importance, expected, rtol=1e-5)
    assert len({round(value, 3) for value in expected}) > 2
    assert measured["importance/mean"] == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert measured["importance/capped_share"] == pytest.approx(float(np.mean(np.array(expected) >= cap)))


@pytest.mark.parametrize("loss", [OFF, *WEIGHED], ids=lambda c: f"{c.importance_sampling} {c.importance_sampling_cap}")
def test_an_update_on_policy_equals_recomputing_the_old_log_probs_before_it(loss: LossConfig) -> None:
    before, buffer = tiny_policy(), off_policy_buffer()
    advantages = np.linspace(-1, 1.1, int(buffer.policy_tokens.sum())).astype(np.float32)
    options: dict[str, Any] = {"temperature": 1.0, "lr": 0.01, "step": 1, "seed": 0}
    expected = recompute_logprobs(learner_of(before), buffer, 1.0, loss)
    expected |= policy_update(learner_of(before), None, buffer, advantages, loss, **options)
    policy = tiny_policy()
    metrics = policy_update(learner_of(policy), None, off_policy_buffer(), advantages, loss, **options, on_policy=True)
    for one, other in zip(policy.model.parameters(), before.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    del expected["mismatch/abs_max"]  # of sums alone
    assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert ("importance/mean" in metrics) == (loss.importance_sampling_cap is not None)


def test_sequence_weights_count_tokens_without_an_advantage() -> None:
    """The update reads whole trajectories for them, though it skips what has no advantage otherwise."""
    advantages = np.zeros(int(mixed_buffer().policy_tokens.sum()), dtype=np.float32)
    advantages[mixed_buffer().first_token] = 1.0
    norms = []
    for on_policy in (True, False):
        learner, buffer = learner_of(tiny_policy()), off_policy_buffer()
        loss = LossConfig(importance_sampling="sequence", importance_sampling_cap=1e6)
        if not on_policy:
            recompute_logprobs(learner, buffer, 1.0, loss)
        settings: dict[str, Any] = {"temperature": 1.0, "lr": 0.01, "step": 1, "seed": 0, "on_policy": on_policy}
        norms.append(policy_update(learner, None, buffer, advantages, loss, **settings)["policy/grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_reference_log_probs_are_those_of_the_reference() -> None:
    buffer, other = mixed_buffer(), tiny_policy(seed=3)
    found = reference_logprobs(learner_of(tiny_policy()), other, buffer, 0.7)
    recompute_logprobs(learner_of(other, token_budget=8), buffer, 0.7)
    np.testing.assert_allclose(found, buffer.logprobs, atol=1e-5)


# ---------------------------------------------------------------- tokens without an advantage

CASES = [
    LossConfig(),
    LossConfig(aggregation="token-sum", dual_clip=3.0),
    LossConfig(aggregation="seq-mean-token-sum"),
    LossConfig(aggregation="seq-mean-token-sum-norm", horizon=100),
    LossConfig(aggregation="seq-mean-token-mean"),
    LossConfig(ratio="sequence"),
    LossConfig(entropy_coef=0.01),
    LossConfig(kl_coef=0.01),
]


@pytest.mark.parametrize("loss", CASES, ids=lambda loss: f"{loss.ratio} {loss.aggregation} {loss.skips_zeros}")
@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_tokens_that_contribute_nothing_are_not_read_and_the_update_is_the_same(
    monkeypatch: pytest.MonkeyPatch, loss: LossConfig, num_minibatches: int
) -> None:
    """Weights after two updates, the second of which also depends on the momentum of the first."""
    results = []
    for skip in (loss.skips_zeros, False):
        monkeypatch.setattr(LossConfig, "skips_zeros", skip)
        policy, buffer, reference = tiny_policy(), mixed_buffer(), tiny_policy(seed=3)
        policy.model.double()
        learner = learner_of(policy, num_minibatches=num_minibatches)
        recompute_logprobs(learner, buffer, 1.0)
        advantages = np.linspace(-1, 1.1, int(buffer.policy_tokens.sum())).astype(np.float32)
        for row, (start, count) in enumerate(zip(buffer.first_token, buffer.policy_tokens, strict=True)):
            advantages[start + (0, count, 1)[row % 3] : start + count] = 0  # nothing, everything, all but one token
        metrics = {}
        for step in (1, 2):
            metrics = policy_update(
                learner, reference, buffer, advantages, loss, temperature=1.0, lr=0.01, step=step, seed=0
            )
        results.append((metrics, torch.cat([p.detach().flatten() for p in policy.model.parameters()])))
    (metrics, weights), (whole, expected) = results
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-9)
    assert metrics["loss/policy"] == pytest.approx(whole["loss/policy"], abs=1e-9)
    assert metrics["policy/grad_norm"] == pytest.approx(whole["policy/grad_norm"], rel=1e-6)
    assert whole["update/read_share"] == pytest.approx(1)
    others = loss.ratio == "sequence" or loss.aggregation == "seq-mean-token-mean" or loss.entropy_coef or loss.kl_coef
    assert (metrics["update/read_share"] < 0.9) == (not others)


def test_an_update_without_any_advantage_is_a_step_of_the_optimizer() -> None:
    """Its momentum moves the weights, as with a gradient of zeros."""
    moved = []
    for skip in (True, False):
        policy, buffer = tiny_policy(), mixed_buffer()
        learner = learner_of(policy)
        some = np.linspace(-1, 1.1, int(buffer.policy_tokens.sum())).astype(np.float32)
        # An entropy bonus of almost nothing reads everything.
        loss = LossConfig() if skip else LossConfig(entropy_coef=1e-12)
        for step, advantages in ((1, some), (2, np.zeros_like(some))):
            metrics = policy_update(
                learner, None, buffer, advantages, loss, temperature=1.0, lr=0.01, step=step, seed=0
            )
        assert (metrics["update/read_share"] < 0.5) == skip
        moved.append(torch.cat([p.detach().flatten() for p in policy.model.parameters()]))
    torch.testing.assert_close(*moved, rtol=0, atol=1e-5)
