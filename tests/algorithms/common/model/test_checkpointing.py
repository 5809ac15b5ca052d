"""Gradient checkpointing without training mode: no source of randomness, whatever its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import tokenizer
from torch import nn

from algorithms.common.model.checkpointing import checkpoint_activations, layers_of
from algorithms.common.model.policy import Policy, PolicyModule
from benchmarks.small_architectures import small_model
from igsearch_env.errors import ConfigurationError

IDS = torch.tensor([[5, 9, 12, 40, 7, 8, 22, 31], [3, 4, 6, 8, 10, 0, 0, 0]])
MASK = torch.tensor([[False] + [True] * 7, [False] + [True] * 4 + [False] * 3])
RANDOM: dict[str, dict[str, Any]] = {
    "seed_oss": {"residual_dropout": 0.5, "attention_dropout": 0.5},
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "mixtral": {"router_jitter_noise": 0.5},
    "opt": {"dropout": 0.5, "layerdrop": 0.5},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "stablelm": {"hidden_dropout": 0.5},
}


@pytest.mark.parametrize("kind", RANDOM)
def test_two_identical_calls_agree(kind: str) -> None:
    plain = Policy(small_model(kind, len(tokenizer())), tokenizer())
    policy = Policy(small_model(kind, len(tokenizer()), **RANDOM[kind]), tokenizer(), gradient_checkpointing=True)
    found, again, expected = (PolicyModule(one)(IDS, MASK)[0] for one in (policy, policy, plain))
    assert torch.equal(found, again)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for mine, theirs in zip(policy.model.parameters(), plain.model.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_layers_are_the_outermost_ones() -> None:
    assert len(layers_of(small_model("gemma3_text", 300))) == 4


def test_a_model_without_known_layers_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.gradient_checkpointing: Linear does not name its layers"):
        checkpoint_activations(nn.Linear(2, 2))
