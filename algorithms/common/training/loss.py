"""The clipped policy loss and its options, as exact sums: micro-batches of any split add up to the same number.

Shapes: B rows, T tokens; `mask_BT` True on policy tokens. Equations and sources: docs/algorithms.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.common.training.config import LossConfig


def token_weights(
    mask_BT: torch.Tensor, aggregation: str, *, horizon: int | None, tokens: int, sequences: int
) -> torch.Tensor:
    """Weight of each token, so that the aggregated loss is the sum of weight x loss.

    `tokens` and `sequences` count those of the whole mini-batch (sequences with a policy token), so that the
    split into micro-batches does not matter. Names as in verl's `agg_loss`.
    """
    mask = mask_BT.float()
    match aggregation:
        case "token-mean":
            return mask / max(tokens, 1)
        case "seq-mean-token-sum":
            return mask / max(sequences, 1)
        case "seq-mean-token-mean":
            return mask / mask.sum(-1, keepdim=True).clamp(min=1) / max(sequences, 1)
        case "seq-mean-token-sum-norm":
            return mask / (max(sequences, 1) * (horizon or mask_BT.shape[-1]))
        case _:
            return mask


@dataclass(frozen=True)
class TokenLoss:
    """Per-token loss with the statistics verl logs, as per-token tensors: average them over the mask."""

    loss_BT: torch.Tensor
    clipped_BT: torch.Tensor
    dual_clipped_BT: torch.Tensor
    approx_kl_BT: torch.Tensor


def policy_loss(
    logprobs_BT: torch.Tensor,
    old_logprobs_BT: torch.Tensor,
    advantages_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    config: LossConfig,
) -> TokenLoss:
    """PPO's clipped surrogate (arXiv 1707.06347, Eq. 7), per token.

    ratio = exp(logp - logp_old), the exponent clamped to +-20; loss = max(-A ratio, -A clip(ratio)); with dual
    clip c (arXiv 1912.09729) and A < 0 at most -A c. `ratio="sequence"` is GSPO (arXiv 2507.18071, Eq. 7 and 14):
    the sequence's geometric mean ratio, gradients through each token's own log-prob.
    """
    difference = logprobs_BT - old_logprobs_BT
    log_ratio = difference.clamp(-20, 20)
    if config.ratio == "sequence":
        mask = mask_BT.float()
        mean = (difference * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = (logprobs_BT - logprobs_BT.detach() + mean.detach()).clamp(max=10)
    ratio = log_ratio.exp()
    plain = -advantages_BT * ratio
    clipped = -advantages_BT * ratio.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    loss = torch.maximum(plain, clipped)
    dual_clipped = torch.zeros_like(loss)
    if config.dual_clip is not None:
        bound = -advantages_BT * config.dual_clip
        negative = advantages_BT < 0
        dual_clipped = (negative & (loss > bound)).float()
        loss = torch.where(negative, torch.minimum(loss, bound), loss)
    return TokenLoss(loss, (clipped > plain).float(), dual_clipped, -difference.clamp(-20, 20))


def value_loss(values: torch.Tensor, old_values: torch.Tensor, targets: torch.Tensor, clip: float) -> torch.Tensor:
    """PPO's clipped value loss per token: half the larger square of (V - R) and (clip(V, V_old +- c) - R)."""
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    return 0.5 * torch.maximum((values - targets).square(), (clipped - targets).square())


def kl_penalty(logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference), with x = logp - logp_ref.

    k1 = x; k2 = x^2 / 2; k3 = exp(-x) + x - 1, the exponent clamped to +-20 and the result to +-10 (verl).
    """
    x = logprobs - reference_logprobs
    if estimator == "k1":
        return x
    if estimator == "k2":
        return 0.5 * x.square()
    negative = (-x).clamp(-20, 20)
    return (negative.exp() - negative - 1).clamp(-10, 10)


def importance_weights(log_ratio_BT: torch.Tensor, mask_BT: torch.Tensor, level: str, cap: float) -> torch.Tensor:
    """Truncated importance weight of each token [B, T], from log pi_trainer - log pi_sampler of the sampled tokens.

    `level` "token": min(exp(log ratio), cap). "sequence": min(exp(sum of the row's log ratios), cap), the same on all
    tokens of a row. The exponent is clamped to +-20. As verl's `rollout_is` and TRL's `*_truncate`; docs/algorithms.md.

    The clipped loss is homogeneous in the advantage, so weighting a token's loss by w > 0 weights its advantage.
    """
    exponent_BT = log_ratio_BT
    if level == "sequence":
        exponent_BT = log_ratio_BT.masked_fill(~mask_BT, 0.0).sum(-1, keepdim=True).expand_as(log_ratio_BT)
    return exponent_BT.clamp(-20, 20).exp().clamp(max=cap)


def mismatch(trainer_logprobs: NDArray[np.float32], sampler_logprobs: NDArray[np.float32]) -> dict[str, float]:
    """How far the sampler's log-probs of its tokens are from the trainer's."""
    difference = sampler_logprobs - trainer_logprobs
    return {
        "mismatch/kl": float(difference.mean()),  # k1, of the sampler from the trainer
        "mismatch/abs_mean": float(np.abs(difference).mean()),
        "mismatch/abs_max": float(np.abs(difference).max()),
    }
