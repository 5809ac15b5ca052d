"""The packed pass: tokens of many sequences in one row without padding, each continuing its stored prefix.

A `Block` is a run of tokens after a prefix. Decoding (one token after an episode), prefilling an observation or a
whole trajectory, and scoring an answer on a branch of it are all blocks, so they share one attention function.
Linear layers see only real tokens. Attention groups blocks of similar shape into buckets, each one call of
`scaled_dot_product_attention` (`packed_attention.py`):

    store      | sequence A ............ | sequence B ........      |     keys and values, a row per token
    packed row | block of A | block of A | block of B | ...         |     what this pass reads

Shapes: n tokens of a pass.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.packed_attention import Bucket, Slots
from algorithms.common.model.short_attention import is_short, short_attention
from igsearch_env.errors import ConfigurationError

# Maximum ratio of padded to real query-key pairs in a bucket: above it, a new bucket is started.
MAX_WASTE = 1.15
# Query-key pairs of padding that cost less than another call.
SMALL_BUCKET = 20_000
# Maximum columns and query-key pairs of a bucket: they limit the copied keys and the mask.
MAX_COLUMNS, MAX_PAIRS = 2**16, 2**23


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens to read after the first `past` tokens of the sequence stored from row `start` on."""

    ids: Sequence[int]
    past: int = 0
    start: int = 0


@dataclass
class Pack:
    """One pass: `ids_n` at `positions_n`, and how attention runs over them. `first[i]` is where block i begins."""

    ids_n: Tensor
    positions_n: Tensor
    buckets: list[tuple[slice, Bucket | Slots]]
    first: list[int]
    store: KVCache | None = None
    rows_n: Tensor | None = None  # rows of the store for the keys and values of these tokens


def pack(blocks: Sequence[Block], device: torch.device, *, store: KVCache | None = None, keep: bool = False) -> Pack:
    """Lay blocks out as one pass. `keep` stores their keys and values after their prefixes."""
    order, buckets_of = _buckets(blocks)
    first = [0] * len(blocks)
    position = 0
    for i in order:
        first[i] = position
        position += len(blocks[i].ids)
    chosen = [blocks[i] for i in order]
    lengths = torch.tensor([len(b.ids) for b in chosen])
    pasts = torch.tensor([b.past for b in chosen])
    starts = torch.tensor([b.start for b in chosen])
    within = torch.arange(position) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    positions_n = (torch.repeat_interleave(pasts, lengths) + within).to(device)
    lengths, pasts, starts = lengths.to(device), pasts.to(device), starts.to(device)
    buckets: list[tuple[slice, Bucket | Slots]] = []
    low = done = 0
    for size in buckets_of:
        members = slice(done, done + size)
        high = low + sum(len(b.ids) for b in chosen[members])
        buckets.append((slice(low, high), Bucket(lengths[members], pasts[members], starts[members])))
        low, done = high, done + size
    ids_n = torch.tensor(list(chain.from_iterable(b.ids for b in chosen)), dtype=torch.long).to(device)
    rows_n = torch.repeat_interleave(starts, lengths) + positions_n if keep else None
    return Pack(ids_n, positions_n, buckets, first, store, rows_n)


def pack_slots(
    ids: Sequence[int], slots: Sequence[int], lengths: Sequence[int], device: torch.device, *, store: KVCache
) -> Pack:
    """One pass that appends one token to each of `slots` of a store, which hold `lengths` tokens."""
    slots_n, lengths_n = torch.tensor(slots, device=device), torch.tensor(lengths, device=device)
    everything = slice(0, len(ids))
    ids_n = torch.tensor(ids, device=device)
    attention = Slots(slots_n, lengths_n + 1)
    return Pack(
        ids_n, lengths_n, [(everything, attention)], list(range(len(ids))), store, slots_n * store.stride + lengths_n
    )


def split_by_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of `lengths` in order, in batches of at most `budget` tokens (or one index)."""
    batch: list[int] = []
    total = 0
    for place, length in enumerate(lengths):
        if batch and total + length > budget:
            yield batch
            batch, total = [], 0
        batch.append(place)
        total += length
    if batch:
        yield batch


def _buckets(blocks: Sequence[Block]) -> tuple[list[int], list[int]]:
    """An order of the blocks, and the number of blocks, in that order, of each bucket."""
    order = sorted(range(len(blocks)), key=lambda i: (blocks[i].past // 16, len(blocks[i].ids), blocks[i].past))
    sizes: list[int] = []
    size = m = c = real = 0
    for i in order:
        length, past = len(blocks[i].ids), blocks[i].past
        m_with, c_with = max(m, length), max(c, past)
        real_with = real + length * (past + length)
        columns = (size + 1) * (c_with + m_with)
        pairs = columns * m_with
        if size and (pairs > min(MAX_WASTE * real_with + SMALL_BUCKET, MAX_PAIRS) or columns > MAX_COLUMNS):
            sizes.append(size)
            size, m_with, c_with, real_with = 0, length, past, length * (past + length)
        size, m, c, real = size + 1, m_with, c_with, real_with
    return order, [*sizes, size] if size else sizes


# ---------------------------------------------------------------- a model that takes packed passes


def _packed_attention(
    base: str,
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Pack | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function for transformers: packed if the model is called with `packed`, else `base`."""
    if packed is None:
        options = {"scaling": scaling, "sliding_window": sliding_window, **kwargs}
        if softcap is not None:
            options["softcap"] = softcap
        if base == "sdpa" and is_short(value, attention_mask):
            return short_attention(query, key, value, scaling), None
        result: tuple[Tensor, Tensor | None]
        result = _base_attention(base, module)(module, query, key, value, attention_mask, **options)
        return result
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ConfigurationError(
                f"policy: its attention uses {name!r}, which packed passes do not support; train another architecture"
            )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    layer = int(module.layer_idx)  # type: ignore[arg-type] # an int on every attention module
    if packed.rows_n is not None:
        assert packed.store is not None
        packed.store.write(layer, packed.rows_n, k, v)
    options = {"scaling": scaling, "softcap": softcap, "window": sliding_window}
    parts = [b.attend(layer, packed.store, q[span], k[span], v[span], **options) for span, b in packed.buckets]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _base_attention(base: str, module: torch.nn.Module) -> Any:
    if base == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    if "flash" in base:
        return functools.partial(_under_its_name, base)
    return ALL_ATTENTION_FUNCTIONS[base]


def _under_its_name(base: str, module: Any, *arguments: Any, **options: Any) -> Any:
    """Call a flash attention function, which loads the library that the configuration of the model names."""
    config, installed = module.config, module.config._attn_implementation
    config._attn_implementation_internal = base
    try:
        return ALL_ATTENTION_FUNCTIONS[base](module, *arguments, **options)
    finally:
        config._attn_implementation_internal = installed


def own_attention(model: Any) -> str:
    """Name of the attention implementation that computes passes that are not packed."""
    return str(model.config._attn_implementation).removeprefix("packed_").replace("fa_", "flash_attention_")


def install_packed_attention(model: Any, base: str | None = None) -> None:
    """Enable packed passes of a model; other passes use `base`, an attention of transformers. Default: its own."""
    base = base or own_attention(model)
    # For a name that contains `flash`, transformers looks for a library of that name.
    name = f"packed_{base.replace('flash_attention_', 'fa_')}"
    AttentionInterface.register(name, functools.partial(_packed_attention, base))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.set_attn_implementation(name)
