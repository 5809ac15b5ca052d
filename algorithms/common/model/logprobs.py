"""Log-probs and entropies of tokens under a linear output layer, without the [tokens, vocabulary] tensor.

With logits z = h W^T / T, p = softmax(z), u and v the gradients of the chosen log-prob and of the entropy H:

    dz = u (onehot - p) - v p (log p + H),   dh = dz W / T,   dW = sum over tokens of dz^T h / T

so the backward pass recomputes the logits chunk by chunk, and accumulates the weight's gradient in one tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Float32 logits that exist at once, 128 MiB: logits of more tokens are computed in chunks. On a GPU 1 GiB: at 150,000
# tokens of vocabulary the smaller chunks are of 220 rows, too few to keep it busy.
MAX_LOGITS, MAX_LOGITS_CUDA = 2**25, 2**28


def max_logits(device: str) -> int:
    """Maximum number of logits of a chunk, on a device of this type."""
    return MAX_LOGITS_CUDA if device == "cuda" else MAX_LOGITS


class ChunkedLogprobs(torch.autograd.Function):
    """(hidden [n, d], weight [V, d], targets [n]) -> log-probs [n] and entropies [n], float32.

    `size`: tokens of a chunk. `dtype`: precision of the matrix products.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, size: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        chosen, entropies, sums = [], [], []
        weight_cast = weight.to(dtype)
        for h, target in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
            # As few passes over the chunk as possible: they are expensive beside a short matrix product.
            logits = _logits(h, weight_cast, temperature)
            largest = logits.amax(-1)
            logits -= largest[:, None]
            powers = logits.exp()
            total = powers.sum(-1)
            chosen.append(logits.gather(-1, target[:, None])[:, 0] - total.log())
            entropies.append(total.log() - torch.linalg.vecdot(powers, logits) / total)
            sums.append(largest + total.log())
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, targets, torch.cat(sums), entropy)
        ctx.temperature, ctx.size, ctx.dtype = temperature, size, dtype
        return torch.cat(chosen), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        hidden, weight, targets, sums, entropy = ctx.saved_tensors
        u, v = gradients
        with_entropy = bool((v != 0).any())
        weight_cast = weight.to(ctx.dtype)
        d_hidden = torch.empty_like(hidden)
        # Sums of many small terms: float32, whatever the precision of the weights.
        d_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if weight.requires_grad else None
        )
        for start in range(0, len(hidden), ctx.size):
            rows = slice(start, start + ctx.size)
            h = hidden[rows]
            logps = _logits(h, weight_cast, ctx.temperature).sub_(sums[rows, None])
            if with_entropy:
                factor = logps + entropy[rows, None]
                factor.mul_(-v[rows, None]).sub_(u[rows, None])
                dz = logps.exp_().mul_(factor)
            else:
                dz = logps.exp_().mul_(-u[rows, None])
            dz.scatter_add_(1, targets[rows, None], u[rows, None])
            dz = dz.div_(ctx.temperature).to(ctx.dtype)
            d_hidden[rows] = (dz @ weight_cast).to(hidden.dtype)
            if d_weight is None:
                continue
            if ctx.dtype == torch.float32:
                d_weight.addmm_(dz.T, h.float())
            else:
                d_weight += dz.T @ h.to(ctx.dtype)
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None, None


def tempered_log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-probs [..., V] at a temperature. At temperature 1 without a pass that divides: logits are large."""
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Float32 logits of a chunk."""
    logits = (hidden.to(weight.dtype) @ weight.T).float()
    return logits if temperature == 1.0 else logits.div_(temperature)
