"""A check that an engine samples from the policy: fixed prompts are continued, and its log-probs are compared.

An engine with weights of its own can miss a part of an update without an error, as a vLLM server on a CPU did: it kept
the old output layer of a model whose embeddings are tied. Everything that it samples is then off-policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.lora import adapted_layers, adapter_weights
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.base import Engine, EngineError
from retrievers.random_streams import random_stream

PROMPTS, TOKENS = 8, 16  # prompts, and tokens of a prompt and of its continuation
ADAPTER_SHARE = 0.3  # norm of the change by the adapter of `check_adapter`, of that of the weights that it changes


@dataclass(frozen=True)
class Tolerance:
    """Largest differences of log-probs, in nats."""

    mean: float
    most: float


# The same weights, measured with a vLLM server on a CPU and SmolLM2-135M: in float32 9e-6 on average and 3e-5 at most,
# in bfloat16 0.06 and 0.23. A stale output layer after two updates: 0.25 and 1.0. TF32 may add 1e-3.
FULL = Tolerance(mean=0.005, most=0.05)
HALF = Tolerance(mean=0.15, most=2.0)


@dataclass(frozen=True)
class Difference:
    """How far two log-probs of the same tokens are apart, in nats."""

    mean: float
    most: float
    tokens: int


def check_weights(engine: Engine, policy: Policy, turn_end: TurnEnd, transfer: int) -> Difference:
    """Compare the log-probs of what an engine samples at temperature 1 with those of the policy.

    Each of its instances is checked; returns the largest difference. `transfer` is the number of updates that the
    engine has received, for the message; the first, 0, sends the weights that the process started with. Raises
    `EngineError` if the two are further apart than their precision explains.
    """
    which = "the weights at the start" if transfer == 0 else f"the weights after update {transfer} of this process"
    found = [_checked(instance, policy, turn_end, which) for instance in engine.instances()]
    return max(found, key=lambda one: one.mean)


@torch.no_grad()
def check_adapter(engine: Engine, policy: Policy, turn_end: TurnEnd) -> Difference:
    """Send an engine a random adapter, compare as `check_weights` does, and leave the policy as it was.

    A new adapter changes nothing, so that a comparison after the first transfer would not notice an engine that ignores
    adapters, or those of some layers.
    """
    with _random_adapter(policy.model):
        engine.update_weights(adapter_weights(policy.model))
        which = "a random adapter in all its layers, as a test"
        found = [_checked(instance, policy, turn_end, which) for instance in engine.instances()]
    return max(found, key=lambda one: one.mean)


def _checked(engine: Engine, policy: Policy, turn_end: TurnEnd, which: str) -> Difference:
    """The difference of an engine. Raises `EngineError` if it is too large; `which` names the weights."""
    found = difference(engine, policy, turn_end)
    precise = {str(d).removeprefix("torch.") for d in (engine.dtype, policy.model.dtype, policy.compute_dtype) if d}
    allowed = FULL if precise == {"float32"} else HALF
    if found.mean <= allowed.mean and found.most <= allowed.most:
        return found
    precision = " and ".join(sorted(precise))
    raise EngineError(
        f"{engine.place} does not sample from the policy: with {which}, the log-probs of {found.tokens} probe tokens "
        f"differ by {found.mean:.4f} nats on average and {found.most:.4f} at most, more than {precision} "
        f"explains ({allowed.mean:g} and {allowed.most:g}). Its weights are not those that it was sent, or it runs "
        "another model: restart it with the model that is trained, use another version of it, or the builtin engine; "
        "the last checkpoint is intact"
    )


@torch.no_grad()
def difference(engine: Engine, policy: Policy, turn_end: TurnEnd) -> Difference:
    """How far the log-probs of an engine and of a policy are apart on what the engine samples."""
    prompts = _prompts(policy)
    writer = EngineDecoder(
        engine, policy, turn_end, slots=len(prompts), max_new_tokens=len(prompts[0]), temperature=1.0
    )
    slots = {
        writer.begin(prompt, random_stream("samples of the probe", 0, n)): prompt for n, prompt in enumerate(prompts)
    }
    writer.prefill()
    apart: list[float] = []
    while writer.writing:
        for slot, turn in writer.decode_step():
            own = _logprobs(policy, slots[slot], turn.ids)
            apart += np.abs(np.subtract(own, turn.logprobs)).tolist()
    return Difference(float(np.mean(apart)), float(np.max(apart)), len(apart))


@contextmanager
def _random_adapter(model: Any) -> Iterator[None]:
    """An adapter that changes every layer that has one, in place of that of the policy."""
    parts = [model.get_submodule(name) for name in adapted_layers(model)]
    ups = [part.lora_B["default"].weight for part in parts]
    kept = [up.detach().clone() for up in ups]
    try:
        for number, (part, up) in enumerate(zip(parts, ups, strict=True)):
            drawn = random_stream("adapter of the probe", 0, number).standard_normal(tuple(up.shape))
            up.copy_(torch.as_tensor(drawn))
            change = (up @ part.lora_A["default"].weight).norm() * part.scaling["default"]
            up.mul_(ADAPTER_SHARE * part.get_base_layer().weight.norm() / change)
        yield
    finally:
        for up, own in zip(ups, kept, strict=True):
            up.copy_(own)


def _prompts(policy: Policy) -> list[Ids]:
    """Random tokens without special ones: what follows them is uncertain, so that every part of the model matters."""
    tokenizer = policy.tokenizer.hf_tokenizer
    size = min(len(tokenizer), int(policy.model.config.get_text_config().vocab_size))
    plain = np.setdiff1d(np.arange(size), tokenizer.all_special_ids)
    length = max(1, min(TOKENS, policy.context_length // 2))
    drawn = random_stream("prompts of the probe", 0).choice(plain, (PROMPTS, length))
    return [tuple(int(token) for token in row) for row in drawn]


def _logprobs(policy: Policy, prompt: Ids, ids: Sequence[int]) -> list[float]:
    row = torch.tensor([[*prompt, *ids]], device=policy.device)
    mask = torch.zeros(row.shape, dtype=torch.bool, device=policy.device)
    mask[0, len(prompt) :] = True
    chosen: list[float] = policy.token_logprobs(row, mask)[0].float().tolist()
    return chosen
