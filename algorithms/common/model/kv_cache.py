"""The KV cache: keys and values of tokens that the model has read, for later passes to continue.

Shapes: n tokens, B blocks, c columns of the longest prefix, H heads, d their width.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from igsearch_env.branches import Ids, common_prefix

__all__ = ["CachedPrefixes", "Ids", "KVCache", "common_prefix"]


class KVCache:
    """Keys and values of every layer: a row per token, sequences in slots of `stride` rows each.

    It grows on demand and can be reused for one batch of sequences after another. Rows are zero before they are
    written, since masked columns are read too: a value that is not finite, times a probability of 0, is nan.
    """

    def __init__(self) -> None:
        self.slots = self.stride = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, slots: int, stride: int) -> None:
        """Allocate at least `slots` slots of at least `stride` rows; stored rows keep their place in their slot."""
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
        """Keys and values [slots, H, stride, d] of a layer; heads first, so that attention reads each contiguously."""
        return self._layers[layer]

    def write(self, layer: int, rows_n: Tensor, keys_nHd: Tensor, values_nHd: Tensor) -> None:
        """Write `rows_n` (slot * stride + place) of a layer; no row may occur twice."""
        if layer not in self._layers:
            _, heads, _ = keys_nHd.shape
            keys, values = (x.new_zeros(self.slots, heads, self.stride, x.shape[2]) for x in (keys_nHd, values_nHd))
            self._layers[layer] = keys, values
        keys, values = self._layers[layer]
        index = self._index(rows_n, keys.shape[1]).flatten()
        with _in_any_order():
            keys.view(-1, keys.shape[3]).index_copy_(0, index, keys_nHd.reshape(-1, keys.shape[3]))
            values.view(-1, values.shape[3]).index_copy_(0, index, values_nHd.reshape(-1, values.shape[3]))

    def gather(self, layer: int, rows_Bc: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, c, d] of the given rows of a layer."""
        keys, values = self._layers[layer]
        index_BHc = self._index(rows_Bc, keys.shape[1]).transpose(1, 2)
        # An embedding is the same lookup as indexing, but several times faster on a CPU.
        past_keys, past_values = (F.embedding(index_BHc, x.view(-1, x.shape[3])) for x in (keys, values))
        return past_keys, past_values

    def _index(self, rows: Tensor, heads: int) -> Tensor:
        """Rows of [slots * H * stride, d], with a last dimension for heads added to `rows`."""
        slots, places = rows // self.stride, rows % self.stride
        by_head = slots[..., None] * heads + torch.arange(heads, device=rows.device)
        return by_head * self.stride + places[..., None]


_mode = threading.Lock()  # of torch's deterministic mode, which all threads share


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Allow nondeterministic kernels for writes to distinct rows: the deterministic one would sort them first."""
    with _mode:
        mode = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(False)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode, warn_only=warn_only)


class CachedPrefixes:
    """Sequences whose keys and values are stored, for others to continue. Valid until the weights change."""

    def __init__(self, store: KVCache, sequences: dict[int, Ids]) -> None:
        """`sequences`: token ids by the row that they are stored from."""
        self.store = store
        self._sorted = sorted((ids, start) for start, ids in sequences.items())

    def longest(self, ids: Ids) -> tuple[int, int]:
        """Length of the longest stored prefix of `ids`, and the row that it starts from."""
        # In lexicographic order, the longest common prefix with anything is that with a neighbour.
        place = bisect_left(self._sorted, (ids, -1))
        found = [(common_prefix(ids, other), start) for other, start in self._sorted[max(place - 1, 0) : place + 1]]
        return max(found, default=(0, 0))
