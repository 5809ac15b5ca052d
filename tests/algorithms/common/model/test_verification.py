"""Models that this project would read otherwise than they read themselves are rejected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import WINDOW, tiny_model, tokenizer
from torch import Tensor

from algorithms.common.model import verification
from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.packed_attention import Bucket, Slots
from algorithms.common.model.packing import Block, pack
from algorithms.common.model.policy import Policy
from algorithms.common.model.verification import thresholds, verify
from benchmarks.architectures import ROPES
from benchmarks.small_architectures import CONTEXT, ORIGINAL, small_model
from igsearch_env.errors import ConfigurationError


def policy_of(kind: str, **options: Any) -> Policy:
    """A small policy of an architecture; `scaling` names a kind of rotary embeddings."""
    scaling = options.pop("scaling", None)
    return Policy(
        small_model(kind, len(tokenizer()), rope=dict(ROPES[scaling]) if scaling else None), tokenizer(), **options
    )


def test_a_window_that_only_the_mask_knows_is_found() -> None:
    with pytest.raises(
        ConfigurationError, match=r"log-probs of PhimoeForCausalLM are off by \d.* nats in packed passes"
    ):
        verify(policy_of("phimoe"))


def test_such_a_model_can_be_used_within_its_window() -> None:
    with pytest.raises(ConfigurationError, match=r"set policy\.context_length to at most 20, or train a model with"):
        verify(Policy(small_model("phimoe", len(tokenizer()), sliding_window=20), tokenizer()))
    verify(Policy(small_model("phimoe", len(tokenizer()), sliding_window=20), tokenizer(), context_length=20))


@pytest.mark.parametrize("kind", ["recurrent_gemma", "mamba", "lfm2", "bloom", "bert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_than_plain_causal_attention_is_rejected_in_any_precision(kind: str, dtype: torch.dtype) -> None:
    model = small_model(kind, len(tokenizer())).to(dtype)
    with pytest.raises(ConfigurationError, match="plain causal attention"):
        verify(Policy(model, tokenizer()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("broken", ["packed", "continued", "decoded", "padded"])
def test_each_way_of_reading_is_verified_beyond_the_window(
    broken: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(tiny_model("gemma3").to(dtype), tokenizer())
    verify(policy)  # right as it is
    mask, slots, hidden = Bucket._mask, Slots._mask, Policy.hidden_states

    def wider(self: Any, window: int | None, kind: torch.dtype, past: bool) -> Tensor:
        wrong = bool(self.c) is past and window is not None
        return mask(self, window + 1 if wrong and window is not None else window, kind)

    match broken:
        case "packed":
            monkeypatch.setattr(Bucket, "_mask", lambda self, window, kind: wider(self, window, kind, False))
        case "continued":
            monkeypatch.setattr(Bucket, "_mask", lambda self, window, kind: wider(self, window, kind, True))
        case "decoded":
            monkeypatch.setattr(Slots, "_mask", lambda self, window, kind: slots(self, window and window + 1, kind))
        case _:
            monkeypatch.setattr(Policy, "hidden_states", lambda self, ids_BT: hidden(self, ids_BT).flip(0).roll(1, 1))
    with pytest.raises(ConfigurationError, match="are off by"):
        verify(policy)


@pytest.mark.parametrize(("tokens", "accepted"), [(1, True), (8, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_of_one_token_is_accepted_in_low_precision_only(
    tokens: int, accepted: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(tiny_model("gemma3").to(dtype), tokenizer())
    logprobs = Policy.logprobs_of

    def wrong(self: Policy, hidden_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        found, entropies = logprobs(self, hidden_n, targets_n)
        if hidden_n.dtype == dtype:  # not in the float32 copy of a bfloat16 model
            found = found.clone()
            found[:tokens] -= 3.0
        return found, entropies

    reads = verification._own_logprobs

    def right(policy: Policy, ids_T: Tensor) -> Tensor:
        with monkeypatch.context() as unchanged:
            unchanged.setattr(Policy, "logprobs_of", logprobs)
            return reads(policy, ids_T)

    monkeypatch.setattr(verification, "_own_logprobs", right)
    monkeypatch.setattr(Policy, "logprobs_of", wrong)
    if accepted and dtype == torch.bfloat16:
        verify(policy)
    else:
        with pytest.raises(ConfigurationError, match="are off by"):
            verify(policy)


def test_every_length_that_changes_a_model_is_found() -> None:
    assert max(thresholds(policy_of("gemma3_text"))) == WINDOW
    assert ORIGINAL in thresholds(policy_of("llama", scaling="yarn"))
    assert WINDOW not in thresholds(policy_of("gemma3_text", context_length=WINDOW))  # no text is longer


@pytest.mark.parametrize(("kind", "scaling"), [("phi3", "longrope"), ("llama", "longrope"), ("llama", "dynamic")])
def test_frequencies_that_depend_on_neighbours_limit_the_context(
    kind: str, scaling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = policy_of(kind, scaling=scaling)
    assert policy.context_length == ORIGINAL
    assert f"at most {ORIGINAL} tokens, of the {CONTEXT} that the model supports" in capsys.readouterr().err
    verify(policy)
    assert policy_of(kind, scaling=scaling, context_length=ORIGINAL - 5).context_length == ORIGINAL - 5
    with pytest.raises(
        ConfigurationError, match=rf"policy\.context_length={ORIGINAL + 1}: .*{scaling}.*at most {ORIGINAL}"
    ):
        policy_of(kind, scaling=scaling, context_length=ORIGINAL + 1)


@torch.no_grad()
def test_a_row_at_the_limit_is_read_as_alone() -> None:
    policy = policy_of("phi3", scaling="longrope")
    short, long = list(range(3, 16)), list(range(20, 20 + ORIGINAL))
    store = KVCache()
    store.reserve(2 * ORIGINAL)
    policy.forward_packed(pack([Block(short[:9]), Block(long[:4], 0, ORIGINAL)], policy.device, store=store, keep=True))
    blocks = [Block(short[9:], 9), Block(long[4:], 4, ORIGINAL)]
    packed = pack(blocks, policy.device, store=store)
    hidden = policy.forward_packed(packed)
    for ids, block, first in zip((short, long), blocks, packed.first, strict=True):
        alone = policy.hidden_states(torch.tensor([ids]))[0, block.past :]
        torch.testing.assert_close(hidden[first : first + len(block.ids)], alone, atol=1e-4, rtol=1e-4)


def test_scaling_that_does_not_depend_on_the_length_keeps_the_whole_context() -> None:
    for scaling in ("yarn", "llama3", "linear"):
        policy = policy_of("llama", scaling=scaling)
        assert policy.context_length == CONTEXT
        verify(policy)
