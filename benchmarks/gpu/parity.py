"""Packed passes on the device against plain ones: the same hidden states, in float32 and in the device's precision."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F

from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packing import Block, Pack, pack, pack_slots
from algorithms.common.model.policy import Policy
from benchmarks.gpu.machine import has_varlen
from benchmarks.gpu.sizes import Report, Sizes
from retrievers.random_streams import random_stream, stream_seed

LENGTHS = (7, 64, 65, 190)  # tokens of the sequences
BRANCH = 33  # tokens of a branch
LIMITS = {torch.float32: 2e-3, torch.bfloat16: 0.1}  # of the largest difference, relative to the largest value


def parity(sizes: Sizes, report: Report) -> None:
    """Reports the differences; raises `AssertionError` after the last if one is above its limit."""
    worst = []
    for dtype in dict.fromkeys((torch.float32, sizes.precision)):
        policy = sizes.policy(min(2, sizes.layers), dtype)
        for name, difference in _differences(policy).items():
            report({"pass": name, "dtype": str(dtype), "difference": difference, "limit": LIMITS[dtype]})
            worst.append(difference / LIMITS[dtype])
    if sizes.device == "cuda" and has_varlen():
        difference = _varlen()
        report({"pass": "torch's variable-length attention", "difference": difference, "limit": 0.02})
        worst.append(difference / 0.02)
    assert max(worst) <= 1, "packed passes differ from plain ones by more than the limit"


@torch.no_grad()
def _differences(policy: Policy) -> dict[str, float]:
    rng = random_stream("tokens of the parity on a GPU", 0)
    rows = [rng.integers(300, 1_200, length + BRANCH).tolist() for length in LENGTHS]
    plain = [policy.hidden_states(torch.tensor([row], device=policy.device))[0] for row in rows]
    store = KVCache()
    spans = [Span(256 * n, 256) for n in range(len(rows))]
    store.reserve(len(rows) * 256)
    whole = list(zip(rows, LENGTHS, spans, strict=True))
    prefixes = [Block(row[:length], 0, span.start) for row, length, span in whole]
    branches = [Block(row[length:], length, span.start) for row, length, span in whole]
    packed = pack(prefixes, policy.device, store=store, keep=True)
    before = [states[:length] for states, length in zip(plain, LENGTHS, strict=True)]
    found = {"prefill": _largest(policy, packed, prefixes, before)}
    packed = pack(branches, policy.device, store=store)
    after = [states[length:] for states, length in zip(plain, LENGTHS, strict=True)]
    found["branches"] = _largest(policy, packed, branches, after)
    ids = [row[length] for row, length in zip(rows, LENGTHS, strict=True)]
    step = pack_slots(ids, spans, list(LENGTHS), policy.device, store=store)
    ones = [Block([token]) for token in ids]
    found["decode"] = _largest(policy, step, ones, [states[:1] for states in after])
    return found


def _largest(policy: Policy, packed: Pack, blocks: list[Block], plain: list[torch.Tensor]) -> float:
    """The largest difference of a pass from plain states, relative to their largest value."""
    hidden_n = policy.forward_packed(packed)
    mine = [hidden_n[first : first + len(block.ids)] for first, block in zip(packed.first, blocks, strict=True)]
    largest = max(float(states.abs().max()) for states in plain)
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(mine, plain, strict=True)) / largest


def _varlen() -> float:
    """The largest difference of variable-length attention with grouped heads from plain attention."""
    from torch.nn.attention.varlen import varlen_attn

    n, heads, groups, d = sum(LENGTHS), 16, 2, 128
    generator = torch.Generator("cuda").manual_seed(stream_seed("variable-length attention on a GPU", 0))
    q, k, v = (
        torch.randn(n, count, d, device="cuda", dtype=torch.bfloat16, generator=generator)
        for count in (heads, groups, groups)
    )
    ends = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0).to(torch.int32)
    # Releases of torch name its options differently.
    options = {"window_size": (-1, 0), "is_causal": True, "enable_gqa": True}
    causal: dict[str, Any] = {
        name: value for name, value in options.items() if name in inspect.signature(varlen_attn).parameters
    }
    assert "window_size" in causal or "is_causal" in causal, "no option of torch's varlen_attn makes it causal"
    if "enable_gqa" not in causal:
        k, v = (x.repeat_interleave(heads // groups, dim=1) for x in (k, v))
    out = varlen_attn(q, k, v, ends, ends, max(LENGTHS), max(LENGTHS), **causal)
    out = out[0] if isinstance(out, tuple) else out
    worst = 0.0
    for low, high in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        queries, keys, values = (x[low:high].transpose(0, 1)[None].float() for x in (q, k, v))
        same = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        worst = max(worst, float((out[low:high].transpose(0, 1)[None].float() - same).abs().max()))
    return worst
