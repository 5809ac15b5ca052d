"""The policy loss: sums that don't depend on the split, gradients, KL estimators, and unusable options."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses import aggregated

from algorithms.common.training.config import Aggregation, LossConfig
from algorithms.common.training.loss import kl_penalty, policy_loss, token_weights
from igsearch_env.errors import ConfigurationError

HORIZON = 9


def random_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss and a mask, every row with a policy token, padded on the right."""
    rng = np.random.default_rng(seed)
    rows, width = int(rng.integers(1, 9)), int(rng.integers(1, HORIZON + 1))
    mask = rng.random((rows, width)) < 0.5
    mask[np.arange(rows), rng.integers(0, width, rows)] = True
    return torch.from_numpy(rng.normal(size=(rows, width))).float(), torch.from_numpy(mask)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
@given(seed=st.integers(0, 10_000), cuts=st.sets(st.integers(1, 8)))
def test_micro_batches_add_up_to_the_loss_of_the_batch(aggregation: str, seed: int, cuts: set[int]) -> None:
    loss, mask = random_batch(seed)
    total = 0.0
    for part in np.split(np.arange(len(loss)), sorted(cut for cut in cuts if cut < len(loss))):
        width = int(mask[part].any(0).nonzero().max()) + 1  # a micro-batch is padded to its own longest row
        weights = token_weights(
            mask[part, :width], aggregation, horizon=HORIZON, tokens=int(mask.sum()), sequences=len(loss)
        )
        total += (loss[part, :width] * weights).sum().item()
    assert total == pytest.approx(aggregated(loss, mask, aggregation, horizon=HORIZON).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token-mean", (1 + 2 + 6) / 3),
        ("token-sum", 9.0),
        ("seq-mean-token-sum", (3 + 6) / 2),
        ("seq-mean-token-mean", (1.5 + 6) / 2),
        ("seq-mean-token-sum-norm", (3 + 6) / (2 * 10)),
    ],
)
def test_aggregations_by_hand(aggregation: str, expected: float) -> None:
    loss = torch.tensor([[1.0, 2.0, 40.0], [6.0, 50.0, 60.0], [70.0, 80.0, 90.0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert aggregated(loss, mask, aggregation, horizon=10).item() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_a_batch_without_policy_tokens_has_loss_zero(aggregation: str) -> None:
    assert aggregated(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), aggregation).item() == 0.0


# ---------------------------------------------------------------- gradients


def gradient(ratios: list[float], advantages: list[float], config: LossConfig) -> list[float]:
    """d loss / d log-prob of tokens whose probability has changed by these ratios."""
    logprobs = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    mask = torch.ones(1, len(ratios), dtype=torch.bool)
    result = policy_loss(logprobs, torch.zeros_like(logprobs), torch.tensor([advantages]), mask, config)
    (slope,) = torch.autograd.grad(result.loss_BT.sum(), logprobs)
    return [float(value) for value in slope[0]]


@given(st.floats(0.3, 3.0), st.floats(-2, 2), st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.4, 0.1)]))
def test_no_gradient_where_the_ratio_is_clipped(ratio: float, advantage: float, clip: tuple[float, float]) -> None:
    low, high = clip
    beyond = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    slope = gradient([ratio], [advantage], LossConfig(clip_ratio_low=low, clip_ratio_high=high))
    assert slope == pytest.approx([0.0 if beyond else -advantage * ratio], abs=1e-6)


def test_on_policy_the_gradient_is_the_advantage() -> None:
    assert gradient([1.0, 1.0], [0.75, -1.5], LossConfig()) == pytest.approx([-0.75, 1.5])


def test_dual_clip_stops_the_gradient_of_a_bad_token_that_became_likely() -> None:
    ratios, advantages = [2.0, 4.0, 4.0], [-1.0, -1.0, 1.0]
    assert gradient(ratios, advantages, LossConfig()) == pytest.approx([2.0, 4.0, 0.0])
    assert gradient(ratios, advantages, LossConfig(dual_clip=3.0)) == pytest.approx([2.0, 0.0, 0.0])


def test_the_sequence_ratio_is_one_for_all_tokens_of_a_row() -> None:
    config = LossConfig(ratio="sequence", clip_ratio_low=0.9, clip_ratio_high=9.0)
    assert gradient([4.0, 1.0], [-1.0, -1.0], config) == pytest.approx([2.0, 2.0])
    assert gradient([4.0, 1.0], [-1.0, -1.0], LossConfig(clip_ratio_low=0.9, clip_ratio_high=9.0)) == pytest.approx(
        [4.0, 1.0]
    )


def test_tokens_that_are_not_the_policys_do_not_count_in_the_sequence_ratio() -> None:
    config = LossConfig(ratio="sequence", clip_ratio_low=0.9, clip_ratio_high=9.0)
    mask = torch.tensor([[True, False, True]])
    logprobs = torch.tensor([[math.log(4.0), 11.0, 0.0]])
    loss = policy_loss(logprobs, torch.zeros(1, 3), torch.full((1, 3), -1.0), mask, config).loss_BT
    assert loss[mask].tolist() == pytest.approx([2.0, 2.0])


def test_an_absurd_ratio_stays_finite() -> None:
    for config in (LossConfig(), LossConfig(ratio="sequence")):
        result = policy_loss(
            torch.tensor([[0.0]]), torch.tensor([[-1000.0]]), torch.tensor([[-1.0]]), torch.ones(1, 1) > 0, config
        )
        assert torch.isfinite(result.loss_BT).all()


def test_statistics_count_what_was_clipped() -> None:
    logprobs = torch.tensor([[1.5, 1.0, 4.0, 1.0]]).log()
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    config = LossConfig(dual_clip=3.0)
    result = policy_loss(logprobs, torch.zeros_like(logprobs), advantages, torch.ones(1, 4) > 0, config)
    assert result.clipped_BT.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert result.dual_clipped_BT.tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert result.approx_kl_BT.tolist() == [pytest.approx([-math.log(1.5), 0.0, -math.log(4.0), 0.0])]


# ---------------------------------------------------------------- KL

LOGPROBS = st.lists(st.floats(-8, 0), min_size=1, max_size=8)


@given(LOGPROBS, st.data())
def test_kl_estimators_by_their_definitions(values: list[float], data: st.DataObject) -> None:
    reference = data.draw(st.lists(st.floats(-8, 0), min_size=len(values), max_size=len(values)))
    logp, ref = torch.tensor(values), torch.tensor(reference)
    x = (logp - ref).double()
    torch.testing.assert_close(kl_penalty(logp, ref, "k1").double(), x)
    torch.testing.assert_close(kl_penalty(logp, ref, "k2").double(), x * x / 2)
    torch.testing.assert_close(
        kl_penalty(logp, ref, "k3").double(), (torch.exp(-x) + x - 1).clamp(max=10), atol=2e-5, rtol=1e-4
    )
    for estimator in ("k2", "k3"):
        assert (kl_penalty(logp, ref, estimator) >= -1e-6).all()
        assert (kl_penalty(logp, logp, estimator) == 0).all()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_average_to_the_divergence(estimator: str) -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl_penalty(p.log(), q.log(), estimator)).sum(), expected)


@pytest.mark.parametrize(("estimator", "slope"), [("k1", 1.0), ("k2", 0.5), ("k3", 1 - math.exp(-0.5))])
def test_kl_gradients(estimator: str, slope: float) -> None:
    logp = torch.tensor([-1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(kl_penalty(logp, torch.tensor([-1.5]), estimator).sum(), logp)
    assert gradient.item() == pytest.approx(slope, abs=1e-6)


def test_k3_is_bounded() -> None:
    assert kl_penalty(torch.tensor([-500.0, 500.0]), torch.zeros(2), "k3").tolist() == [10.0, 10.0]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "token_mean"}, "loss.aggregation='token_mean'.*did you mean 'token-mean'"),
        ({"ratio": "tokens"}, "loss.ratio='tokens'.*did you mean 'token'"),
        ({"kl_estimator": "k4"}, "loss.kl_estimator='k4'"),
        ({"clip_ratio_low": -0.1}, "loss.clip_ratio_low=-0.1: must be from 0 to 1"),
        ({"clip_ratio_low": 1.5}, "loss.clip_ratio_low=1.5: must be from 0 to 1"),
        ({"clip_ratio_high": -0.2}, "loss.clip_ratio_high=-0.2: must be at least 0"),
        ({"clip_ratio_high": math.nan}, "loss.clip_ratio_high=nan"),
        ({"kl_coef": -1.0}, "loss.kl_coef=-1.0: must be at least 0"),
        ({"dual_clip": 0.5}, "loss.dual_clip=0.5: must be at least 1"),
        ({"aggregation": "seq-mean-token-sum-norm"}, "loss.horizon.*=0: must be at least 1"),
        ({"aggregation": "seq-mean-token-sum-norm", "horizon": -3}, "loss.horizon.*=-3: must be at least 1"),
    ],
)
def test_an_unusable_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LossConfig(**options)  # type: ignore[arg-type]
