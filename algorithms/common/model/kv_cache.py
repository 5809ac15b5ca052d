"""The KV cache: keys and values of tokens that the model has read, for later passes to continue.

Shapes: R rows of the cache, n tokens, B blocks, c columns of the longest prefix, H heads, d their width.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from igsearch_env.branches import Ids, common_prefix

__all__ = ["CachedPrefixes", "Ids", "KVCache", "common_prefix", "in_any_order"]


class KVCache:
    """Keys and values of every layer: a row per token; a sequence is in contiguous rows.

    It grows on demand. Rows are zero before they are written, since masked columns are read too: a value that is not
    finite, times a probability of 0, is nan.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, rows: int) -> None:
        """Allocate at least `rows` rows; stored rows keep their place."""
        if rows <= self.rows:
            return
        old_rows, self.rows = self.rows, rows
        for layer, (keys, values) in self._layers.items():  # one after another: few copies exist at once
            self._layers[layer] = _grown(keys, old_rows, rows), _grown(values, old_rows, rows)

    def clear(self) -> None:
        """Free all memory; nothing is stored afterwards."""
        self.rows = 0
        self._layers.clear()

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [R, H, d] of a layer."""
        return self._layers[layer]

    def write(self, layer: int, rows_n: Tensor, keys_nHd: Tensor, values_nHd: Tensor) -> None:
        """Write rows of a layer; none may occur twice."""
        if layer not in self._layers:
            keys, values = (x.new_zeros(self.rows, *x.shape[1:]) for x in (keys_nHd, values_nHd))
            self._layers[layer] = keys, values
        with in_any_order():
            for stored, new in zip(self._layers[layer], (keys_nHd, values_nHd), strict=True):
                stored.flatten(1).index_copy_(0, rows_n, new.flatten(1))

    def gather(self, layer: int, rows_Bc: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, c, H, d] of the given rows of a layer."""
        # An embedding is the same lookup as indexing, but several times faster on a CPU.
        keys, values = (
            F.embedding(rows_Bc, x.flatten(1)).view(*rows_Bc.shape, *x.shape[1:]) for x in self._layers[layer]
        )
        return keys, values

    def move(self, moves: Sequence[tuple[int, int, int]]) -> None:
        """Move sequences at once: (first row, its new place, rows) each. Old and new places may overlap."""
        if not moves or not self._layers:
            return
        device = next(iter(self._layers.values()))[0].device
        source, target = (
            torch.cat([torch.arange(move[side], move[side] + move[2]) for move in moves]).to(device) for side in (0, 1)
        )
        with in_any_order():
            for pair in self._layers.values():
                for stored in pair:
                    stored.index_copy_(0, target, stored.index_select(0, source))


def _grown(stored: Tensor, old_rows: int, rows: int) -> Tensor:
    larger = stored.new_empty(rows, *stored.shape[1:])
    larger[:old_rows] = stored
    larger[old_rows:] = 0
    return larger


_mode = threading.Lock()  # of torch's deterministic mode, which all threads share


@contextmanager
def in_any_order() -> Iterator[None]:
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
