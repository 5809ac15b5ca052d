"""Attention of short rows by products against float32, forward and backward, and when it is used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import tiny_model, tokenizer
from torch import Tensor

from algorithms.common.model.packing import install_packed_attention
from algorithms.common.model.policy import Policy
from algorithms.common.model.short_attention import QUERIES, SHORT, is_short, short_attention

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


def inputs(T: int, heads: int, groups: int, dtype: torch.dtype = BFLOAT16) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as models pass them: heads transposed, not contiguous."""
    random = torch.Generator().manual_seed(T)
    made = (
        torch.randn(2, T, count, 16, generator=random).to(BFLOAT16).transpose(1, 2) for count in (heads, groups, groups)
    )
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in made)
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor, scaling: float | None) -> Tensor:
    """The same attention in float32, written out."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scaling is None else scaling)
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def error(found: Tensor, right: Tensor) -> float:
    """Relative error of a tensor."""
    return float((found.detach().float() - right.detach()).norm() / right.detach().norm())


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("T", [1, 7, QUERIES, QUERIES + 1, 2 * QUERIES + 40, SHORT])
def test_it_is_causal_attention(T: int, heads: int, groups: int, scaling: float | None) -> None:
    mine, right = inputs(T, heads, groups), inputs(T, heads, groups, FLOAT32)
    found, expected = short_attention(*mine, scaling), exact(*right, scaling)
    assert found.shape == expected.shape == (2, T, heads, 16)
    assert found.dtype == BFLOAT16
    assert error(found, expected) < 0.01
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(BFLOAT16)
    found.backward(gradient)
    expected.backward(gradient.float())
    for x, y in zip(mine, right, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        if T > 1:  # a single key has weight 1, whatever the scores
            assert error(x.grad, y.grad) < 0.01
        assert torch.isfinite(x.grad).all()


def test_its_error_is_that_of_the_fused_kernel() -> None:
    right = inputs(200, 6, 2, FLOAT32)
    expected = exact(*right, None)
    expected.sum().backward()

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

    errors = []
    for attention in (lambda q, k, v: short_attention(q, k, v, None), fused):
        mine = inputs(200, 6, 2)
        found = attention(*mine)
        found.sum().backward()
        pairs = [(found, expected), *((x.grad, y.grad) for x, y in zip(mine, right, strict=True))]
        errors.append(max(error(x, y) for x, y in pairs))  # type: ignore[arg-type] # they have gradients
    assert errors[0] < 2 * errors[1]


def test_a_row_does_not_depend_on_the_others() -> None:
    """So padding after a row, which has rows of its own and later columns, changes nothing."""
    q, k, v = inputs(150, 4, 2)
    whole = short_attention(q, k, v, None)
    alone = short_attention(q[:1, :, :90], k[:1, :, :90], v[:1, :, :90], None)
    torch.testing.assert_close(whole[:1, :90], alone, rtol=0.02, atol=0.02)


def test_when_it_is_used() -> None:
    _, _, v = inputs(SHORT, 2, 1)
    mask = torch.zeros(1, 1, SHORT, SHORT, dtype=BFLOAT16)
    assert is_short(v, None)
    assert not is_short(v, mask)  # a mask may be that of a sliding window
    assert not is_short(v.detach(), None)
    assert not is_short(v.float(), None)
    assert not is_short(inputs(SHORT + 1, 2, 1)[2], None)


def test_queries_and_keys_may_be_in_the_precision_of_the_weights() -> None:
    q, k, v = inputs(40, 4, 2)
    assert torch.equal(short_attention(q.float(), k.float(), v, None), short_attention(q, k, v, None))


@pytest.mark.parametrize(("base", "used"), [("sdpa", True), ("eager", False)])
def test_a_model_whose_attention_is_sdpa_uses_it(monkeypatch: pytest.MonkeyPatch, base: str, used: bool) -> None:
    calls = []
    monkeypatch.setattr(
        "algorithms.common.model.packing.short_attention", lambda *a: calls.append(a[-1]) or short_attention(*a)
    )
    policy = Policy(tiny_model("llama"), tokenizer(), compute_dtype="bfloat16")
    install_packed_attention(policy.model, base)
    policy.token_logprobs(torch.ones(1, 8, dtype=torch.long), torch.arange(8)[None] > 3)
    assert len(calls) == (policy.model.config.num_hidden_layers if used else 0)
