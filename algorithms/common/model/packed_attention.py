"""Attention of a packed pass by padded rows: each part of the pass is one call of `scaled_dot_product_attention`.

A `Bucket` is blocks of similar shape, padded; `Slots` is one token for each of some sequences of a store, read in
place. `variable_length.py` computes the same on a GPU without padding.

Shapes: n tokens of a part, B blocks of a bucket, m longest block, c longest prefix, R rows of a store, H heads, d wide.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.model.kv_cache import KVCache


class Bucket:
    """Blocks of similar shape: padded to [B, m] queries on [B, c + m] columns. Its arguments are on the CPU."""

    def __init__(self, lengths_B: Tensor, pasts_B: Tensor, starts_B: Tensor, device: torch.device) -> None:
        self.lengths_B, self.pasts_B = lengths_B, pasts_B
        self.device = device
        self.m, self.c = int(lengths_B.max()), int(pasts_B.max())
        self.even = bool((lengths_B == self.m).all())
        self.masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        columns = torch.arange(self.m)
        real_Bm = columns < lengths_B[:, None]
        first_B = lengths_B.cumsum(0) - lengths_B
        self.pad_Bm = torch.where(real_Bm, first_B[:, None] + columns, 0).to(device)
        self.unpad = real_Bm.flatten().nonzero()[:, 0].to(device)
        columns = torch.arange(self.c)
        self.past_real_Bc = columns < pasts_B[:, None]
        self.past_rows_Bc = torch.where(self.past_real_Bc, starts_B[:, None] + columns, starts_B[:, None]).to(device)

    def attend(self, layer: int, store: KVCache | None, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Attention of this bucket's tokens, [n', H, d] each, to their prefixes and to each other."""
        B, window = len(self.lengths_B), options.pop("window")
        if self.even:
            q, k, v = (x.reshape(B, self.m, *x.shape[1:]) for x in (q, k, v))
        else:
            q, k, v = (_rows(x, self.pad_Bm) for x in (q, k, v))
        if self.c:
            assert store is not None  # a block with a past has a store
            past_k, past_v = store.gather(layer, self.past_rows_Bc)
            k, v = torch.cat([past_k, k], dim=1), torch.cat([past_v, v], dim=1)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        causal = not self.c and (window is None or window >= self.m)
        mask = None if causal else self._mask(window, q.dtype)
        out = _attention(q, k, v, mask, causal=causal, **options).transpose(1, 2).flatten(0, 1)
        return out if self.even else _rows(out, self.unpad)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B or 1, 1, m, c + m], 0 where a query may attend and -inf elsewhere; made once for all layers."""
        key = (window, dtype)
        if key not in self.masks:
            # Blocks whose prefixes are equally long share one mask: the rest is causal.
            pasts_B = self.pasts_B[:1] if bool((self.pasts_B == self.c).all()) else self.pasts_B
            own = torch.arange(self.m)
            queries_Bm = pasts_B[:, None] + own
            past_Bc = torch.arange(self.c).expand(len(pasts_B), -1)
            columns_Bk = torch.cat([past_Bc, queries_Bm], dim=1)
            real_Bk = torch.cat([self.past_real_Bc[: len(pasts_B)], torch.ones_like(queries_Bm, dtype=torch.bool)], 1)
            queries_Bm, columns_Bk, real_Bk = (x.to(self.device) for x in (queries_Bm, columns_Bk, real_Bk))
            behind = queries_Bm[:, :, None] - columns_Bk[:, None, :]
            visible = (behind >= 0) & real_Bk[:, None, :]
            if window is not None:
                visible &= behind < window
            self.masks[key] = _additive(visible, dtype)[:, None]
        return self.masks[key]


class Slots:
    """One new token for each of some sequences of a store, read in place. Its arguments are on the CPU.

    Sequences that begin at equal distances, `grid` rows, are one view of the store; 0: they do not, and are copied.
    The view has as many rows of each sequence as the longest one needs; the store must have them (`pack_slots`).
    """

    def __init__(self, starts_n: Tensor, lengths_n: Tensor, grid: int, device: torch.device) -> None:
        """`lengths_n` include the new token."""
        self.device = device
        self.masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self.columns = int(lengths_n.max())
        self.grid, self.base = grid, int(starts_n.min())
        places_n = (starts_n - self.base) // grid if grid else torch.arange(len(starts_n))
        self.used = int(places_n.max()) + 1
        # Computing unused places is cheaper than copying the used ones, unless more than about half are unused.
        self.copied = grid == 0 or 2 * len(starts_n) < self.used
        if self.copied:
            self.lengths = lengths_n
            columns = torch.arange(self.columns)
            real_nc = columns < lengths_n[:, None]
            self.rows_nc = torch.where(real_nc, starts_n[:, None] + columns, starts_n[:, None]).to(device)
        else:  # unused places see one column: a softmax over no column is nan
            self.lengths = torch.ones(self.used, dtype=torch.long)
            self.lengths[places_n] = lengths_n
            self.places_n = places_n.to(device)

    def attend(self, layer: int, store: KVCache | None, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Attention of one token per sequence; its own key and value are already stored."""
        assert store is not None
        window = options.pop("window")
        if self.copied:
            k, v = store.gather(layer, self.rows_nc)
        else:
            k, v = (self._view(x) for x in store.layer(layer))
            padded = q.new_zeros(self.used, *q.shape[1:])
            padded[self.places_n] = q
            q = padded
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        # Query heads that share keys become queries of one head: otherwise a GPU copies the keys for each of them.
        q = q.reshape(len(q), k.shape[1], -1, q.shape[2])
        out = _attention(q, k, v, self._mask(window, q.dtype), causal=False, **options).flatten(1, 2)
        return out if self.copied else out[self.places_n]

    def _view(self, stored_RHd: Tensor) -> Tensor:
        """[used, columns, H, d] of a store's rows; the last sequence may have fewer than `grid` rows."""
        row, head, one = stored_RHd.stride()
        shape = (self.used, self.columns, *stored_RHd.shape[1:])
        return stored_RHd.as_strided(
            shape, (self.grid * row, row, head, one), stored_RHd.storage_offset() + self.base * row
        )

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        key = (window, dtype)
        if key not in self.masks:
            lengths = self.lengths.to(self.device)
            columns = torch.arange(self.columns, device=self.device)
            visible = columns < lengths[:, None]
            if window is not None:
                visible &= columns >= lengths[:, None] - window
            self.masks[key] = _additive(visible, dtype)[:, None, None]
        return self.masks[key]


def _rows(x_nHd: Tensor, index: Tensor) -> Tensor:
    """x[index]."""
    flat: Tensor = F.embedding(index, x_nHd.reshape(len(x_nHd), -1))
    return flat.view(*index.shape, *x_nHd.shape[1:])


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query may attend, -inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool, scaling: float | None, softcap: float | None
) -> Tensor:
    """Attention [B, H, m, d]; keys and values may have fewer heads (GQA)."""
    groups = q.shape[1] // k.shape[1]
    if softcap is not None:
        return _softcapped(q, k, v, mask, causal, scaling, softcap, groups)
    # Only the CPU kernel supports grouped heads together with a mask.
    if groups > 1 and q.device.type != "cpu" and mask is not None:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        groups = 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=groups > 1
    )


def _softcapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scaling: float | None, cap: float, groups: int
) -> Tensor:
    """Attention with scores soft-capped at +-cap, which no fused kernel of torch supports (Gemma 2)."""
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / cap) * cap
    if causal:
        mask = torch.full(scores.shape[-2:], -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v
