"""Log-probs in chunks, and in half precision, are those of the plain computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import ARCHITECTURES, WINDOWED, bundled_policy, tiny_model, tiny_policy, tokenizer, turn_end
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from algorithms.common.model import logprobs
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.decoder import Decoder

TOKENS, WIDTH, VOCABULARY = 23, 32, len(tokenizer())
EVERY = (*ARCHITECTURES, *WINDOWED)


class LargestLogits(TorchDispatchMode):
    """The most rows of logits that any operation made at once."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        shape = tuple(getattr(out, "shape", ()))
        if shape[1:] == (VOCABULARY,) and shape[0] != WIDTH:  # else it is the weight, transposed
            self.rows = max(self.rows, shape[0])
        return out


def values_and_gradients(policy: Policy, hidden_n: Tensor, targets_n: Tensor, *, entropy: bool) -> list[Tensor]:
    """Log-probs and entropies, then what a loss over them sends back to the hidden states and the embedding."""
    weight = policy.model.get_output_embeddings().weight
    weight.grad, hidden_n = None, hidden_n.clone().requires_grad_()
    chosen, entropies = policy.logprobs_of(hidden_n, targets_n, 0.8, entropy_gradient=entropy)
    loss = (chosen * torch.linspace(-1, 2, len(chosen))).sum()
    if entropy:
        loss = loss + (entropies * torch.linspace(2, 1, len(chosen))).sum()
    loss.backward()
    assert hidden_n.grad is not None
    gradients = [hidden_n.grad] if weight.grad is None else [hidden_n.grad, weight.grad]
    return [chosen.detach(), entropies.detach(), *gradients]


def some_tokens() -> tuple[Tensor, Tensor]:
    """Hidden states and what came after them."""
    generator = torch.Generator().manual_seed(0)
    hidden_n = torch.randn(TOKENS, WIDTH, generator=generator)
    return hidden_n, torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])  # without and with softcapping
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("size", [1, 7, TOKENS - 1, TOKENS])
def test_chunks_change_neither_values_nor_gradients(
    architecture: str, entropy: bool, frozen: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy(architecture)
    policy.model.get_output_embeddings().weight.requires_grad_(not frozen)
    plain = values_and_gradients(policy, *some_tokens(), entropy=entropy)
    monkeypatch.setattr(logprobs, "MAX_LOGITS", size * VOCABULARY + 1)
    with LargestLogits() as largest:
        chunked = values_and_gradients(policy, *some_tokens(), entropy=entropy)
    assert largest.rows == size
    assert len(chunked) == 3 + (not frozen)
    for ours, theirs in zip(chunked, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for ours, theirs in zip(policy.logprobs_of(*some_tokens(), 0.8), plain, strict=False):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_chunks_change_no_gradient_where_the_embeddings_are_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, gradients = bundled_policy(), []
    for limit in (logprobs.MAX_LOGITS, 5 * VOCABULARY):
        monkeypatch.setattr(logprobs, "MAX_LOGITS", limit)
        policy.model.zero_grad()
        chosen, entropies = policy.token_logprobs(*some_rows(), entropy_gradient=True)
        (chosen.mean() + 0.1 * entropies.mean()).backward()
        gradients.append({name: p.grad.clone() for name, p in policy.model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_logprobs_and_entropy_are_those_of_the_tempered_distribution() -> None:
    policy = tiny_policy()
    hidden_n, targets_n = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 4, 1, 5])
    with torch.no_grad():
        chosen, entropies = policy.logprobs_of(hidden_n, targets_n, 0.5)
        distribution = torch.distributions.Categorical(logits=policy.logits(hidden_n) / 0.5)
    torch.testing.assert_close(chosen, distribution.log_prob(targets_n))
    torch.testing.assert_close(entropies, distribution.entropy())


@pytest.mark.parametrize("size", [4, 1000])
def test_entropy_has_a_gradient_only_if_asked_for(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    monkeypatch.setattr(logprobs, "MAX_LOGITS", size * VOCABULARY)
    hidden_n, targets_n = torch.randn(9, 32, requires_grad=True), torch.arange(9)
    for asked in (False, True):
        chosen, entropies = policy.logprobs_of(hidden_n, targets_n, entropy_gradient=asked)
        assert chosen.requires_grad
        assert entropies.requires_grad is asked
    with torch.no_grad():
        assert not any(out.requires_grad for out in policy.logprobs_of(hidden_n, targets_n, entropy_gradient=True))


# ---------------------------------------------------------------- half precision


def some_rows() -> tuple[Tensor, Tensor]:
    """Padded rows and what the policy wrote of them."""
    ids_BT = torch.randint(3, 1000, (3, 30), generator=torch.Generator().manual_seed(1))
    mask_BT = torch.zeros(3, 30, dtype=torch.bool)
    mask_BT[0, 5:30], mask_BT[1, 9:20], mask_BT[2, 1:4] = True, True, True
    return ids_BT, mask_BT


def pair(architecture: str) -> tuple[Policy, Policy]:
    """The same weights computing in float32 and in bfloat16."""
    return (
        Policy(tiny_model(architecture), tokenizer()),
        Policy(tiny_model(architecture), tokenizer(), compute_dtype="bfloat16"),
    )


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Size of the difference over the size of what is expected."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("chunk", [8, 1000])
def test_bfloat16_computes_near_float32_with_float32_weights_and_gradients(
    architecture: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "MAX_LOGITS", chunk * VOCABULARY)
    results = []
    for policy in pair(architecture):
        chosen, entropies = policy.token_logprobs(*some_rows(), entropy_gradient=True)
        (chosen.mean() + 0.1 * entropies.mean()).backward()
        parameters = list(policy.model.parameters())
        assert all(p.dtype == torch.float32 for p in parameters)
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)
        assert chosen.dtype == entropies.dtype == torch.float32
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        results.append((chosen.detach(), entropies.detach(), gradient))
    plain, half = results
    assert not torch.equal(half[0], plain[0])
    assert relative(half[0], plain[0]) < 0.05
    assert relative(half[1], plain[1]) < 0.05
    assert relative(half[2], plain[2]) < 0.2


@pytest.mark.parametrize("architecture", EVERY)
def test_bfloat16_decodes_what_it_trains_on(architecture: str) -> None:
    """Log-probs of the sampler are near those that the update computes, in either precision."""
    for policy, tolerance in zip(pair(architecture), (1e-4, 0.3), strict=True):
        decoder = Decoder(policy, turn_end(policy), slots=2, max_new_tokens=12, temperature=0.0)
        prompts = [
            policy.tokenizer.encode("Where was Zose Drartov born?\n"),
            policy.tokenizer.encode("Who wrote it?\n"),
        ]
        slots = [decoder.begin(prompt) for prompt in prompts]
        decoder.prefill()
        finished = {}
        while decoder.writing:
            finished.update(decoder.decode_step())
        for slot, prompt in zip(slots, prompts, strict=True):
            ids_BT = torch.tensor([[*prompt, *finished[slot].ids]])
            mask_BT = torch.arange(ids_BT.shape[1])[None] >= len(prompt)
            with torch.no_grad():
                expected, _ = policy.token_logprobs(ids_BT, mask_BT)
            torch.testing.assert_close(torch.tensor(finished[slot].logprobs), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 220), ("cuda", 1_766)])
def test_a_gpu_computes_larger_chunks(device: str, tokens: int) -> None:
    assert logprobs.max_logits(device) // 151_936 == tokens
