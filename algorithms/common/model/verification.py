"""Verification of a model when it is loaded: every way in which this project reads it must agree with the model itself.

A text is read in one packed pass beside a shorter one, as the continuation of a stored prefix, token by token, and
padded. The texts are longer than every window, chunk and original context length in the model's configuration that
fits into the context: a model that applies one of them in a way that packed passes can't reproduce is rejected.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packing import Block, Pack, pack, pack_slots
from igsearch_env.errors import ConfigurationError
from retrievers.random_streams import stream_seed

HINT = "; train a model with plain causal attention (Qwen, Llama, Mistral, Gemma, GPT-NeoX, Phi, OLMo and similar ones)"
# Largest difference between log-probs of float32 passes. Rounding causes about 1e-5 nats in a model of 30 layers, a
# token too many or too few in a window 1e-2 and more.
TOLERANCE = 1e-3  # nats
# In bfloat16, and with kernels that do not support float32: only errors much larger than their rounding, as a mean over
# neighbouring tokens. Of a single token, rounding may decide whether its activations become massive: 3 nats of one
# token were measured in a fine-tuned SmolLM2-135M, where the others differed by 0.1.
LOW_PRECISION_TOLERANCE = 1.0  # nats
NEIGHBOURS = 8  # tokens
SHORT, LONGER, DECODED = 11, 16, 4  # tokens: of the shorter text, beyond a threshold, and read one by one
# Options of a configuration, by name, that are lengths at which a model changes how it reads.
_LENGTHS = re.compile(r"window|chunk|original|local|floor|block_size|topk|max_distance|extent")


class Verifiable(Protocol):
    """What verification needs of `Policy`."""

    model: Any
    context_length: int
    compute_dtype: torch.dtype | None
    tokenizer: Any

    def autocast(self) -> torch.autocast:
        """Context of a pass in the compute precision."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the model's inputs."""
        ...

    @property
    def body(self) -> Any:
        """The part of the model that computes hidden states."""
        ...

    def forward_packed(self, packed: Pack) -> Tensor:
        """Last hidden states [n, width] of a packed pass."""
        ...

    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        """Last hidden states [B, T, width] of padded rows."""
        ...

    def logprobs_of(self, hidden_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies [n] of targets."""
        ...

    def float32_replica(self) -> Verifiable:
        """A copy in float32 whose padded passes use an attention that supports it."""
        ...


def verify(policy: Verifiable) -> None:
    """Raise `ConfigurationError` unless every way of reading agrees with the model itself, whatever the precision.

    A model in lower precision is verified as a float32 copy, since rounding in bfloat16 hides real errors, and then
    briefly as it is. Recurrent and convolutional layers, bidirectional attention, and attention that can't be replaced
    through transformers are rejected.
    """
    name = type(policy.model).__name__
    rows, tokens = policy.model.get_input_embeddings().num_embeddings, len(policy.tokenizer.hf_tokenizer)
    if tokens > rows:
        raise ConfigurationError(
            f"policy: the tokenizer has {tokens} tokens, but the model has embeddings for {rows}; call "
            "model.resize_token_embeddings(len(tokenizer)) and save both"
        )
    lengths = [min(length + LONGER, policy.context_length) for length in (SHORT, *thresholds(policy))]
    if max(lengths) > 1_000:
        print(f"policy: verifying {name} over {max(lengths):,} tokens", file=sys.stderr)
    exact = policy.model.dtype == torch.float32 and policy.compute_dtype is None
    if exact:
        _compare_or_repair(policy, lengths)
        return
    try:
        _compare_or_repair(policy.float32_replica(), lengths)
    except torch.OutOfMemoryError:
        print(
            f"policy: no memory for a float32 copy of {name}: its packed passes are verified to "
            f"{LOW_PRECISION_TOLERANCE} nats only",
            file=sys.stderr,
        )
        _compare(policy, max(lengths), LOW_PRECISION_TOLERANCE)
    else:
        _compare(policy, lengths[0], LOW_PRECISION_TOLERANCE)


def thresholds(policy: Verifiable) -> list[int]:
    """Lengths below the context length at which the configuration says that the model changes how it reads."""

    def found(part: dict[str, Any]) -> Iterator[int]:
        for key, value in part.items():
            if isinstance(value, dict):
                yield from found(value)
            elif _LENGTHS.search(str(key)):
                yield from (one for one in (value if isinstance(value, list) else [value]) if type(one) is int)

    config = policy.model.config.get_text_config().to_dict()
    return sorted({length for length in found(config) if 1 < length < policy.context_length})


def _compare_or_repair(policy: Verifiable, lengths: list[int]) -> None:
    """Compare texts of the longest length; if they differ, name the length up to which the model can be used."""
    try:
        _compare(policy, max(lengths), TOLERANCE)
    except ConfigurationError as error:
        for usable in sorted(thresholds(policy), reverse=True):
            try:
                _compare(policy, usable, TOLERANCE)
            except ConfigurationError:
                continue
            raise ConfigurationError(
                f"{str(error).removesuffix(HINT)}; texts of up to {usable} tokens are read right: set "
                f"policy.context_length to at most {usable}, or{HINT.removeprefix(';')}"
            ) from error
        raise


@torch.no_grad()
def _compare(policy: Verifiable, length: int, tolerance: float) -> None:
    name = type(policy.model).__name__
    if length < SHORT:
        raise ConfigurationError(f"policy.context_length: {policy.context_length} is not enough for any question")
    random = torch.Generator().manual_seed(stream_seed("texts of the verification", 0))
    tokens = len(policy.tokenizer.hf_tokenizer)
    texts = [torch.randint(tokens, (size,), generator=random).to(policy.device) for size in (length, SHORT)]
    try:
        expected = [_own_logprobs(policy, ids) for ids in texts]
        reads = dict(_reads(policy, texts))
    except (ConfigurationError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code of any architecture, called as it does not expect
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"policy: {name} does not support packed passes ({type(error).__name__}: {reason}){HINT}"
        ) from error
    for what, found in reads.items():
        apart = max(
            _apart(mine[-len(own) :], own[-len(mine) :], 1 if tolerance <= TOLERANCE else NEIGHBOURS)
            for mine, own in zip(found, expected, strict=True)
        )
        if not apart <= tolerance:
            raise ConfigurationError(
                f"policy: log-probs of {name} are off by {apart:.2g} nats {what} (at most {tolerance:g}){HINT}"
            )


def _apart(found_T: Tensor, expected_T: Tensor, neighbours: int) -> float:
    """The largest mean of absolute differences over so many neighbouring tokens; infinite if one is not a number."""
    apart_T = torch.nan_to_num(found_T - expected_T, torch.inf).abs().float()
    return float(apart_T.unfold(0, min(neighbours, len(apart_T)), 1).mean(-1).max())


def _own_logprobs(policy: Verifiable, ids_T: Tensor) -> Tensor:
    """Log-probs [T - 1] of a text that the model itself reads alone."""
    with policy.autocast():
        output = policy.model(input_ids=ids_T[None, :SHORT], use_cache=False)  # a whole text's logits may be large
        hidden = policy.body(input_ids=ids_T[None], use_cache=False).last_hidden_state[0]
    logprobs = policy.logprobs_of(hidden[:-1], ids_T[1:])[0]
    own: Tensor = output.logits[0, :-1].float().log_softmax(-1).gather(-1, ids_T[1:SHORT, None])[:, 0]
    if len(ids_T) == SHORT:
        return own
    return torch.cat([own, logprobs[SHORT - 1 :]])


def _reads(policy: Verifiable, texts: list[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """What is read, and log-probs of the last tokens of each text."""

    def logprobs(hidden: list[Tensor]) -> list[Tensor]:
        pairs = zip(hidden, texts, strict=True)
        return [policy.logprobs_of(states[:-1], ids[len(ids) - len(states) + 1 :])[0] for states, ids in pairs]

    ids = [text.tolist() for text in texts]
    blocks = [Block(part) for part in ids]
    packed = pack(blocks, policy.device)
    yield "in packed passes", logprobs(_split(policy.forward_packed(packed), packed, blocks))

    # Prefixes are stored; what follows them is read at once, then token by token.
    store, grid = KVCache(), Span(0, max(map(len, ids))).grid
    spans = [Span(number * grid, grid) for number in range(len(ids))]
    store.reserve(len(ids) * grid)
    pasts = [max(len(part) // 2, len(part) - LONGER - DECODED) for part in ids]
    ends = [len(part) - DECODED for part in ids]
    starts = [Block(part[:past], 0, span.start) for part, past, span in zip(ids, pasts, spans, strict=True)]
    policy.forward_packed(pack(starts, policy.device, store=store, keep=True))
    rest = [
        Block(part[past:end], past, span.start) for part, past, end, span in zip(ids, pasts, ends, spans, strict=True)
    ]
    packed = pack(rest, policy.device, store=store, keep=True)
    hidden = _split(policy.forward_packed(packed), packed, rest)
    for step in range(DECODED):
        lengths = [end + step for end in ends]
        new = [part[length] for part, length in zip(ids, lengths, strict=True)]
        packed = pack_slots(new, spans, lengths, policy.device, store=store)
        states = policy.forward_packed(packed)[packed.first]
        hidden = [torch.cat([before, state[None]]) for before, state in zip(hidden, states, strict=True)]
    yield "when a stored prefix is continued", logprobs(hidden)

    rows = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    padded = policy.hidden_states(rows)
    yield "in padded passes", logprobs([states[: len(part)] for states, part in zip(padded, ids, strict=True)])


def _split(hidden_n: Tensor, packed: Pack, blocks: list[Block]) -> list[Tensor]:
    return [hidden_n[first : first + len(block.ids)] for first, block in zip(packed.first, blocks, strict=True)]
