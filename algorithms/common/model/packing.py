"""The packed pass: tokens of many sequences in one row without padding, each continuing its stored prefix.

A `Block` is a run of tokens after a prefix. Decoding (one token after an episode), prefilling an observation or a
whole trajectory, and scoring an answer on a branch of it are all blocks, so they share one attention function.
Linear layers see only real tokens. Attention groups blocks of similar shape into buckets, each one call of
`scaled_dot_product_attention` (`packed_attention.py`); on a GPU it takes them as they are (`variable_length.py`):

    store      | sequence A ............ | sequence B ........      |     keys and values, a row per token
    packed row | block of A | block of A | block of B | ...         |     what this pass reads

Shapes: n tokens of a pass.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packed_attention import Bucket, Slots
from algorithms.common.model.short_attention import is_short, short_attention
from algorithms.common.model.variable_length import Padded, Ragged, attention_for, layout, parts
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
    """One pass: `ids_n` at `positions_n`. `first[i]` is where block i begins.

    Attention runs over `buckets` or, where a kernel takes sequences of any lengths, over `ragged` parts.
    """

    ids_n: Tensor
    positions_n: Tensor
    first: list[int]
    lengths: Tensor  # this and the next two: of blocks in the order of the pass, on the CPU
    pasts: Tensor
    starts: Tensor
    sizes: list[int]  # number of blocks in each bucket
    grids: list[int] | None = None  # of each bucket, if its blocks are one token each that is stored (`Slots`)
    store: KVCache | None = None
    rows_n: Tensor | None = None  # rows of the store for the keys and values of these tokens

    @cached_property
    def buckets(self) -> list[tuple[slice, Bucket | Slots]]:
        """Padded parts, with their tokens in the pass."""
        ends = list(accumulate(self.sizes))
        found: list[tuple[slice, Bucket | Slots]] = []
        for number, (end, size) in enumerate(zip(ends, self.sizes, strict=True)):
            members = slice(end - size, end)
            lengths, pasts, starts = self.lengths[members], self.pasts[members], self.starts[members]
            part: Bucket | Slots
            if self.grids is None:
                part = Bucket(lengths, pasts, starts, self.ids_n.device)
            else:
                part = Slots(starts, pasts + 1, self.grids[number], self.ids_n.device)
            found.append((self._tokens(members), part))
        return found

    @cached_property
    def ragged(self) -> list[tuple[slice, Ragged]]:
        """Parts by real lengths, with their tokens in the pass."""
        stored = self.store.rows if self.store is not None and self.rows_n is not None else None
        found = []
        for members in parts(self.lengths, self.pasts, copied=stored is None):
            arranged = layout(self.lengths[members], self.pasts[members], self.starts[members], stored)
            found.append((self._tokens(members), Ragged(arranged, self.ids_n.device)))
        return found

    def _tokens(self, members: slice) -> slice:
        low = int(self.lengths[: members.start].sum())
        return slice(low, low + int(self.lengths[members].sum()))


def pack(blocks: Sequence[Block], device: torch.device, *, store: KVCache | None = None, keep: bool = False) -> Pack:
    """Lay blocks out as one pass. `keep` stores their keys and values after their prefixes."""
    order, sizes = _buckets(blocks)
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
    positions_n = torch.repeat_interleave(pasts, lengths) + within
    rows_n = (torch.repeat_interleave(starts, lengths) + positions_n).to(device) if keep else None
    ids_n = torch.tensor(list(chain.from_iterable(b.ids for b in chosen)), dtype=torch.long).to(device)
    return Pack(ids_n, positions_n.to(device), first, lengths, pasts, starts, sizes, store=store, rows_n=rows_n)


def pack_slots(
    ids: Sequence[int], spans: Sequence[Span], lengths: Sequence[int], device: torch.device, *, store: KVCache
) -> Pack:
    """One pass that appends one token to each sequence of a store; they lie in `spans` and have `lengths` tokens."""
    # Those that lie on one grid are read in place. A grid of 0: those that lie anywhere.
    grids = [0 if span.start % span.grid else span.grid for span in spans]
    columns = dict.fromkeys(grids, 0)
    for grid, length in zip(grids, lengths, strict=True):
        columns[grid] = max(columns[grid], length + 1)
    # A view has as many rows of each sequence as the longest one needs. The last sequence of the store may have fewer
    # rows up to the store's end: it is read by itself.
    keys = [
        (grid, grid > 0 and span.start + columns[grid] > store.rows, span.start)
        for grid, span in zip(grids, spans, strict=True)
    ]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    first = [0] * len(ids)
    for place, i in enumerate(order):
        first[i] = place
    sizes = Counter(keys[i][:2] for i in order)  # in this order
    starts, pasts = torch.tensor([spans[i].start for i in order]), torch.tensor([lengths[i] for i in order])
    return Pack(
        torch.tensor([ids[i] for i in order], device=device),
        pasts.to(device),
        first,
        torch.ones_like(pasts),
        pasts,
        starts,
        list(sizes.values()),
        [grid for grid, _ in sizes],
        store,
        (starts + pasts).to(device),
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
    kernel = attention_for(q.device.type, v.dtype, (k.shape[-1], v.shape[-1]), softcap)
    # Under autocast, rotary embeddings leave both in the precision of the weights. Attention would cast them, and keys
    # that are stored in every pass.
    q, k = q.to(v.dtype), k.to(v.dtype)
    if packed.rows_n is not None:
        assert packed.store is not None
        packed.store.write(layer, packed.rows_n, k, v)
    found: list[Tensor] = []
    if isinstance(kernel, Padded):
        options = {"scaling": scaling, "softcap": softcap, "window": sliding_window}
        for tokens, bucket in packed.buckets:
            found.append(bucket.attend(layer, packed.store, q[tokens], k[tokens], v[tokens], **options))
    else:
        for tokens, part in packed.ragged:
            arguments = layer, packed.store, q[tokens], k[tokens], v[tokens]
            found.append(part.attend(*arguments, kernel=kernel, window=sliding_window, scaling=scaling))
    return (found[0] if len(found) == 1 else torch.cat(found))[None], None


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
