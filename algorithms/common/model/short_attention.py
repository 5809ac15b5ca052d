"""Causal attention of short rows by plain matrix products, for training in low precision on a CPU.

Torch's fused kernel has a slow backward pass there: at rows of 256 tokens in bfloat16, forward and backward passes by
products take about half of its time on a processor with AMX, with the same error against float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Tokens of a row up to which products are used; the weights that they keep for the backward pass grow with its square.
SHORT = 512
# Queries that are computed together: fewer skip more of the keys behind them, more make larger products.
QUERIES = 128


def is_short(value: Tensor, attention_mask: Tensor | None) -> bool:
    """Whether `short_attention` should compute this pass. `value`: [B, G, T, d]."""
    return (
        value.requires_grad
        and value.device.type == "cpu"
        and value.dtype in (torch.bfloat16, torch.float16)
        and attention_mask is None
        and value.shape[2] <= SHORT
    )


def short_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Causal attention of `query` [B, H, T, d] to `key` and `value` [B, G, T, d]; H is a multiple of G.

    Computes in the precision of `value`: under autocast, rotary embeddings leave the others in that of the weights.
    Returns [B, T, H, d], as the attention functions of transformers. `scaling`: None is d ** -0.5.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    B, H, T, d = query.shape
    G = key.shape[1]
    scale = d**-0.5 if scaling is None else scaling
    keys, values = key.reshape(B * G, T, d), value.reshape(B * G, T, d)
    parts = []
    for low in range(0, T, QUERIES):
        high = min(low + QUERIES, T)
        # Query heads that share keys are rows of one product.
        queries = query[:, :, low:high].reshape(B * G, H // G * (high - low), d)
        behind = torch.full((high - low, high), -torch.inf, dtype=query.dtype).triu(low + 1).repeat(H // G, 1)
        scores = torch.baddbmm(behind[None], queries, keys[:, :high].transpose(1, 2), alpha=scale)
        # softmax computes in float32 inside, whatever the precision of its input
        parts.append(torch.bmm(torch.softmax(scores, dim=-1), values[:, :high]).view(B, H, high - low, d))
    return torch.cat(parts, dim=2).transpose(1, 2)
