"""The packed pass: tokens of many sequences in one row without padding, each continuing keys and values read before.

A `Block` is a run of tokens after a prefix. Decoding (one token after an episode), reading an observation, reading
a whole trajectory and scoring an answer after a fork of it are all blocks, so they share one attention function.
Linear layers see only real tokens. Attention groups blocks of like shape into buckets, each one call of
`scaled_dot_product_attention`:

    store      | sequence A ............ | sequence B ........      |     keys and values, a row per token
    packed row | block of A | block of A | block of B | ...         |     what this pass reads

Shapes: n tokens of a pass, B blocks of a bucket, m longest block, c longest prefix, H heads, d their width.
"""

from __future__ import annotations

import functools
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from igsearch_env.errors import ConfigurationError

# Padded query-key pairs of a bucket over real ones: above it, a bucket is closed and the next one begun.
MAX_WASTE = 1.15
# A bucket this small costs less than another call would.
SMALL_BUCKET = 20_000
# Columns and query-key pairs of a bucket: they bound the keys that are copied and the mask.
MAX_COLUMNS, MAX_PAIRS = 2**16, 2**23

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens to read after the first `past` tokens of the sequence stored from row `start` on."""

    ids: Sequence[int]
    past: int = 0
    start: int = 0


class KeyValues:
    """Keys and values of every layer: a row per token, sequences in slots of `stride` rows each.

    It grows on demand and may serve one batch of sequences after another. Rows are zero before they are written,
    since masked columns are read too: times a probability of 0, garbage that is not finite is nan.
    """

    def __init__(self) -> None:
        self.slots = self.stride = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, slots: int, stride: int) -> None:
        """Have at least `slots` slots of at least `stride` rows; what is stored stays where it is in its slot."""
        if slots <= self.slots and stride <= self.stride:
            return
        old_slots, old_stride = self.slots, self.stride
        self.slots, self.stride = max(slots, old_slots), max(stride, old_stride)
        for layer, pair in self._layers.items():
            keys, values = (old.new_zeros(self.slots, old.shape[1], self.stride, old.shape[3]) for old in pair)
            for new, old in ((keys, pair[0]), (values, pair[1])):
                new[:old_slots, :, :old_stride] = old
            self._layers[layer] = keys, values

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [slots, H, stride, d] of a layer: heads outside, so that attention reads each in one run."""
        return self._layers[layer]

    def write(self, layer: int, rows_n: Tensor, keys_nHd: Tensor, values_nHd: Tensor) -> None:
        """Set `rows_n` (slot * stride + place) of a layer."""
        if layer not in self._layers:
            _, heads, _ = keys_nHd.shape
            keys, values = (x.new_zeros(self.slots, heads, self.stride, x.shape[2]) for x in (keys_nHd, values_nHd))
            self._layers[layer] = keys, values
        keys, values = self._layers[layer]
        index = self._index(rows_n, keys.shape[1]).flatten()
        keys.view(-1, keys.shape[3]).index_copy_(0, index, keys_nHd.reshape(-1, keys.shape[3]))
        values.view(-1, values.shape[3]).index_copy_(0, index, values_nHd.reshape(-1, values.shape[3]))

    def gather(self, layer: int, rows_Bc: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, c, d] of some rows of a layer."""
        keys, values = self._layers[layer]
        index_BHc = self._index(rows_Bc, keys.shape[1]).transpose(1, 2)
        # An embedding is the same lookup as indexing, several times faster on CPU.
        return tuple(F.embedding(index_BHc, x.view(-1, x.shape[3])) for x in (keys, values))  # type: ignore[return-value]

    def _index(self, rows: Tensor, heads: int) -> Tensor:
        """Rows of [slots * H * stride, d], a last dimension of heads beside `rows`."""
        slots, places = rows // self.stride, rows % self.stride
        by_head = slots[..., None] * heads + torch.arange(heads, device=rows.device)
        return by_head * self.stride + places[..., None]


class Prefixes:
    """Sequences whose keys and values are stored, to be continued by others. Valid until the weights change."""

    def __init__(self, store: KeyValues, sequences: dict[int, Ids]) -> None:
        """`sequences`: what is stored from each row on."""
        self.store = store
        self._sorted = sorted((ids, start) for start, ids in sequences.items())

    def longest(self, ids: Ids) -> tuple[int, int]:
        """How many of the first tokens of `ids` are stored, and from which row on."""
        # In lexicographic order, the longest common prefix with anything is that with a neighbour.
        place = bisect_left(self._sorted, (ids, -1))
        found = [(common_prefix(ids, other), start) for other, start in self._sorted[max(place - 1, 0) : place + 1]]
        return max(found, default=(0, 0))


def common_prefix(a: Ids, b: Ids) -> int:
    """Length of the common prefix."""
    if a[: len(b)] == b or b[: len(a)] == a:
        return min(len(a), len(b))
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)


def _rows(x_nHd: Tensor, index: Tensor) -> Tensor:
    """x[index]."""
    flat: Tensor = F.embedding(index, x_nHd.reshape(len(x_nHd), -1))
    return flat.view(*index.shape, *x_nHd.shape[1:])


@dataclass
class _Bucket:
    """Blocks of like shape: padded to [B, m] queries on [B, c + m] columns."""

    lengths_B: Tensor
    pasts_B: Tensor
    starts_B: Tensor
    masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device = self.lengths_B.device
        self.m, self.c = int(self.lengths_B.max()), int(self.pasts_B.max())
        self.even = bool((self.lengths_B == self.m).all())
        columns = torch.arange(self.m, device=device)
        real_Bm = columns < self.lengths_B[:, None]
        first_B = self.lengths_B.cumsum(0) - self.lengths_B
        self.pad_Bm = torch.where(real_Bm, first_B[:, None] + columns, 0)
        self.unpad = real_Bm.flatten().nonzero()[:, 0]
        columns = torch.arange(self.c, device=device)
        self.past_real_Bc = columns < self.pasts_B[:, None]
        self.past_rows_Bc = torch.where(self.past_real_Bc, self.starts_B[:, None] + columns, self.starts_B[:, None])

    def attend(self, layer: int, store: KeyValues | None, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Attention of this bucket's tokens, [n', H, d] each, to their prefixes and to each other."""
        B, window = len(self.lengths_B), options.pop("window")
        if self.even:
            q, k, v = (x.reshape(B, self.m, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        else:
            q, k, v = (_rows(x, self.pad_Bm).transpose(1, 2) for x in (q, k, v))
        if self.c:
            assert store is not None  # a block with a past has a store
            past_k, past_v = store.gather(layer, self.past_rows_Bc)
            k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
        causal = not self.c and (window is None or window >= self.m)
        mask = None if causal else self._mask(window, q.dtype)
        out = _attention(q, k, v, mask, causal=causal, **options).transpose(1, 2).flatten(0, 1)
        return out if self.even else _rows(out, self.unpad)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B or 1, 1, m, c + m], 0 where a query may look and -inf elsewhere; made once for all layers."""
        key = (window, dtype)
        if key not in self.masks:
            device = self.pasts_B.device
            # Blocks whose prefixes are as long as each other share one mask: the rest is causal order.
            pasts_B = self.pasts_B[:1] if bool((self.pasts_B == self.c).all()) else self.pasts_B
            own = torch.arange(self.m, device=device)
            queries_Bm = pasts_B[:, None] + own
            past_Bc = torch.arange(self.c, device=device).expand(len(pasts_B), -1)
            columns_Bk = torch.cat([past_Bc, queries_Bm], dim=1)
            real_Bk = torch.cat([self.past_real_Bc[: len(pasts_B)], torch.ones_like(queries_Bm, dtype=torch.bool)], 1)
            behind = queries_Bm[:, :, None] - columns_Bk[:, None, :]
            visible = (behind >= 0) & real_Bk[:, None, :]
            if window is not None:
                visible &= behind < window
            self.masks[key] = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)
            self.masks[key] = self.masks[key][:, None]
        return self.masks[key]


@dataclass
class _Slots:
    """One new token each for some of the slots of a store, read where they lie."""

    slots_n: Tensor
    lengths_n: Tensor  # with the new token

    def __post_init__(self) -> None:
        self.used = int(self.slots_n.max()) + 1
        self.columns = int(self.lengths_n.max())
        # Copying the rows that are written is dearer than computing some that are not, up to about half.
        self.copied = 2 * len(self.slots_n) < self.used
        self.masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(self, layer: int, store: KeyValues | None, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Attention of one token per slot; its own key and value are in the store already."""
        assert store is not None
        window = options.pop("window")
        k, v = (x[: self.used, :, : self.columns] for x in store.layer(layer))
        if self.copied:
            k, v = k[self.slots_n], v[self.slots_n]
        else:
            padded = q.new_zeros(self.used, *q.shape[1:])
            padded[self.slots_n] = q
            q = padded
        out = _attention(q[:, :, None], k, v, self._mask(window, q.dtype), causal=False, **options)[:, :, 0]
        return out if self.copied else out[self.slots_n]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        key = (window, dtype)
        if key not in self.masks:
            device = self.slots_n.device
            lengths = self.lengths_n
            if not self.copied:  # slots that are not read see one column, or their softmax would have no support
                lengths = torch.ones(self.used, dtype=torch.long, device=device)
                lengths[self.slots_n] = self.lengths_n
            columns = torch.arange(self.columns, device=device)
            visible = columns < lengths[:, None]
            if window is not None:
                visible &= columns >= lengths[:, None] - window
            mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)
            self.masks[key] = mask[:, None, None]
        return self.masks[key]


@dataclass
class Pack:
    """One pass: `ids_n` at `positions_n`, and how attention runs over them. `first[i]` is where block i begins."""

    ids_n: Tensor
    positions_n: Tensor
    buckets: list[tuple[slice, _Bucket | _Slots]]
    first: list[int]
    store: KeyValues | None = None
    rows_n: Tensor | None = None  # of the store, where the keys and values of these tokens are kept


def pack(blocks: Sequence[Block], device: torch.device, *, store: KeyValues | None = None, keep: bool = False) -> Pack:
    """Lay blocks out as one pass. `keep` stores their keys and values behind their prefixes."""
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
    buckets: list[tuple[slice, _Bucket | _Slots]] = []
    low = done = 0
    for size in buckets_of:
        members = slice(done, done + size)
        high = low + sum(len(b.ids) for b in chosen[members])
        buckets.append((slice(low, high), _Bucket(lengths[members], pasts[members], starts[members])))
        low, done = high, done + size
    ids_n = torch.tensor(list(chain.from_iterable(b.ids for b in chosen)), dtype=torch.long).to(device)
    rows_n = torch.repeat_interleave(starts, lengths) + positions_n if keep else None
    return Pack(ids_n, positions_n, buckets, first, store, rows_n)


def pack_slots(
    ids: Sequence[int], slots: Sequence[int], lengths: Sequence[int], device: torch.device, *, store: KeyValues
) -> Pack:
    """One pass that appends one token to each of `slots` of a store, which hold `lengths` tokens."""
    slots_n, lengths_n = torch.tensor(slots, device=device), torch.tensor(lengths, device=device)
    everything = slice(0, len(ids))
    ids_n = torch.tensor(ids, device=device)
    attention = _Slots(slots_n, lengths_n + 1)
    return Pack(
        ids_n, lengths_n, [(everything, attention)], list(range(len(ids))), store, slots_n * store.stride + lengths_n
    )


def passes(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places in order, in runs of at most `budget` tokens (or one place)."""
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
    """An order of the blocks, and how many of them, in that order, make each bucket."""
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


# ---------------------------------------------------------------- attention


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool, scaling: float | None, softcap: float | None
) -> Tensor:
    """Attention [B, H, m, d]; keys and values may have fewer heads (GQA)."""
    groups = q.shape[1] // k.shape[1]
    if softcap is not None:
        return _softcapped(q, k, v, mask, causal, scaling, softcap, groups)
    # Only the CPU's kernel takes grouped heads and a mask together.
    if groups > 1 and q.device.type != "cpu" and mask is not None:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        groups = 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=groups > 1
    )


def _softcapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scaling: float | None, cap: float, groups: int
) -> Tensor:
    """The same with scores bent to +-cap, which no fused kernel of torch offers (Gemma 2)."""
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / cap) * cap
    if causal:
        mask = torch.full(scores.shape[-2:], -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


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
    """An attention function of transformers: of a packed pass when the model is called with `packed`, else `base`."""
    if packed is None:
        options = {"scaling": scaling, "sliding_window": sliding_window, **kwargs}
        if softcap is not None:
            options["softcap"] = softcap
        result: tuple[Tensor, Tensor | None] = _base_attention(base, module)(
            module, query, key, value, attention_mask, **options
        )
        return result
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ConfigurationError(
                f"policy: its attention has {name!r}, which packed passes do not compute; train another architecture"
            )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if packed.rows_n is not None:
        assert packed.store is not None
        packed.store.write(layer, packed.rows_n, k, v)
    options = {"scaling": scaling, "softcap": softcap, "window": sliding_window}
    parts = [b.attend(layer, packed.store, q[span], k[span], v[span], **options) for span, b in packed.buckets]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _base_attention(base: str, module: torch.nn.Module) -> Any:
    if base != "eager":
        return ALL_ATTENTION_FUNCTIONS[base]
    return sys.modules[type(module).__module__].eager_attention_forward


def install(model: Any) -> None:
    """Let a model take packed passes; called without `packed=`, it computes what it did before."""
    base = str(model.config._attn_implementation)
    if base.startswith("packed_"):
        return
    name = f"packed_{base}"
    AttentionInterface.register(name, functools.partial(_packed_attention, base))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.set_attn_implementation(name)
