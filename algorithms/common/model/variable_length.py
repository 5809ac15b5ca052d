"""Attention by real lengths on a GPU: sequences of any lengths in one call, with no padding, mask or copy of heads.

The kernel is flash attention through `torch.nn.attention.varlen.varlen_attn`. It takes queries and keys as rows, and
where each sequence begins in them, so every token of a rollout is the same call: no kernel is planned again for a new
shape. It does not run on a CPU, where `packed_attention.py` computes the same.

Shapes: n tokens of a part, B sequences, R rows of keys, H heads, d their width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from algorithms.common.model.kv_cache import KVCache, in_any_order

Kernel = Callable[..., Tensor]
"""Has the arguments of `varlen_attn`."""
MAX_WIDTH = 256  # of a head, in flash attention
MAX_ROWS = 2**18  # keys of prefixes that are copied together for one call
NEEDED = ("scale", "window_size", "enable_gqa", "seqused_k")  # arguments that early versions of the kernel lack


@dataclass(frozen=True)
class Padded:
    """Attention is computed on padded rows with masks, because of `reason`."""

    reason: str


@lru_cache(maxsize=64)
def attention_for(
    device: str, dtype: torch.dtype, widths: tuple[int, int] | None = None, softcap: float | None = None
) -> Kernel | Padded:
    """The kernel for packed passes, or why there is none.

    Args:
        device: type of the device.
        dtype: of the values, in which attention is computed.
        widths: of keys and of values, per head; None: any that the kernel takes.
        softcap: of scores.
    """
    if device != "cuda":
        return Padded(f"variable-length attention runs on GPUs, not on {device}")
    if dtype not in (torch.float16, torch.bfloat16):
        return Padded(f"flash attention computes in bfloat16 or float16, not in {dtype}")
    if softcap is not None:
        return Padded("torch's variable-length attention has no soft cap of scores")
    if widths is not None and (widths[0] != widths[1] or widths[0] > MAX_WIDTH or widths[0] % 8):
        return Padded(f"heads of widths {widths}: flash attention takes one multiple of 8, up to {MAX_WIDTH}")
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return Padded(f"torch {torch.__version__} has no variable-length attention")
    missing = [name for name in NEEDED if name not in inspect.signature(varlen_attn).parameters]
    if missing:
        return Padded(f"the variable-length attention of torch {torch.__version__} has no {missing[0]}")
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return Padded("flash attention needs a GPU of compute capability 8.0")
    kernel: Any = varlen_attn  # gives a tensor alone, as nothing else is asked for
    return cast("Kernel", kernel)


def disable_cudnn_attention() -> None:
    """Exclude cuDNN from `scaled_dot_product_attention`, for the whole process.

    On compute capability 9.0 torch prefers it, and it plans each new shape, which takes tens to hundreds of
    milliseconds. Rows of an update, and tokens that are decoded, have a new shape nearly every time.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@dataclass(frozen=True)
class Layout:
    """Where sequences begin in the rows of queries and keys, as the kernel takes it: int32, on the CPU.

    Sequence b has the queries from `cu_q[b]` to `cu_q[b + 1]`. Its keys begin at `cu_k[b]`, as many as `used_k[b]`, or
    up to `cu_k[b + 1]` if `used_k` is None. Its last query is at the position of its last key.
    """

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int
    used_k: Tensor | None = None
    order_n: Tensor | None = None
    """Order of the queries in which keys begin at ascending rows; None: they do so as they are."""
    past_rows: Tensor | None = None
    """Rows of the store that are copied: the prefixes of all sequences. None: nothing is copied."""
    past_places: Tensor | None = None
    """Where they are copied to, among `cu_k[-1]` rows of keys."""
    own_places: Tensor | None = None
    """Where the keys of the queries are copied to."""


def layout(lengths: Tensor, pasts: Tensor, starts: Tensor, stored_rows: int | None) -> Layout:
    """The layout of blocks of `lengths` tokens after prefixes of `pasts` tokens, in rows of a store from `starts` on.

    Args:
        stored_rows: rows of the store, if it already holds the keys of the blocks after their prefixes: they are read
            where they lie. None: it holds the prefixes alone, which several blocks may share.
    """
    totals = pasts + lengths
    if stored_rows is not None:
        by_start = starts.argsort(stable=True)
        sorted_already = bool((by_start == torch.arange(len(starts))).all())
        order_n = None if sorted_already else _rows_of(lengths.cumsum(0) - lengths, lengths, by_start)
        lengths, starts, totals = lengths[by_start], starts[by_start], totals[by_start]
        cu_k = torch.cat([starts, torch.tensor([stored_rows])]).int()
        sizes = int(lengths.max()), int(totals.max())
        return Layout(_cumulative(lengths), cu_k, *sizes, used_k=totals.int(), order_n=order_n)
    plain = Layout(_cumulative(lengths), _cumulative(totals), int(lengths.max()), int(totals.max()))
    if not int(pasts.max()):
        return plain
    begin, every = totals.cumsum(0) - totals, torch.arange(len(totals))
    return Layout(
        plain.cu_q,
        plain.cu_k,
        plain.max_q,
        plain.max_k,
        past_rows=_rows_of(starts, pasts, every),
        past_places=_rows_of(begin, pasts, every),
        own_places=_rows_of(begin + pasts, lengths, every),
    )


def parts(lengths: Tensor, pasts: Tensor, copied: bool) -> Iterator[slice]:
    """Consecutive sequences that one call attends from: all, or if prefixes are `copied` at most `MAX_ROWS` keys."""
    if not copied:
        yield slice(0, len(lengths))
        return
    first = rows = 0
    for place, total in enumerate((lengths + pasts).tolist()):
        if place > first and rows + total > MAX_ROWS:
            yield slice(first, place)
            first, rows = place, 0
        rows += total
    yield slice(first, len(lengths))


class Ragged:
    """Consecutive blocks of a pass, as one call of the kernel."""

    def __init__(self, arranged: Layout, device: torch.device) -> None:
        def there(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        self.max_q, self.max_k, self.keys = arranged.max_q, arranged.max_k, int(arranged.cu_k[-1])
        self.cu_q, self.cu_k = arranged.cu_q.to(device), arranged.cu_k.to(device)
        self.used_k, self.order_n = there(arranged.used_k), there(arranged.order_n)
        self.inverse_n = None if arranged.order_n is None else there(arranged.order_n.argsort())
        self.past_rows, self.past_places = there(arranged.past_rows), there(arranged.past_places)
        self.own_places = there(arranged.own_places)

    def attend(
        self,
        layer: int,
        store: KVCache | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        kernel: Kernel,
        window: int | None,
        scaling: float | None,
    ) -> Tensor:
        """Attention of the tokens of these blocks, [n, H, d] each, to their prefixes and to each other."""
        if self.used_k is not None:
            assert store is not None  # its own keys are there
            k, v = store.layer(layer)
        elif self.past_rows is not None:
            assert store is not None
            k, v = (self._joined(past, own) for past, own in zip(store.layer(layer), (k, v), strict=True))
        out = kernel(
            q if self.order_n is None else q[self.order_n],
            k,
            v,
            self.cu_q,
            self.cu_k,
            self.max_q,
            self.max_k,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=q.shape[1] != k.shape[1],
            seqused_k=self.used_k,
        )
        return out if self.inverse_n is None else out[self.inverse_n]

    def _joined(self, past_RHd: Tensor, own_nHd: Tensor) -> Tensor:
        """Prefixes, each followed by the keys of its block."""
        assert self.past_rows is not None
        assert self.past_places is not None
        assert self.own_places is not None
        joined = own_nHd.new_empty(self.keys, *own_nHd.shape[1:])
        with in_any_order():
            joined.index_copy_(0, self.past_places, past_RHd.index_select(0, self.past_rows))
            joined.index_copy_(0, self.own_places, own_nHd)
        return joined


def _cumulative(lengths: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int()


def _rows_of(starts: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
    """`lengths[i]` rows from `starts[i]` on, for i in `order`."""
    starts, lengths = starts[order], lengths[order]
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + within
