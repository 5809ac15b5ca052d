"""The loss of one whole batch, by the weights that an update gives its micro-batches."""

from __future__ import annotations

import torch

from algorithms.common.training.loss import token_weights


def aggregated(
    loss_BT: torch.Tensor, mask_BT: torch.Tensor, aggregation: str, *, horizon: int | None = None
) -> torch.Tensor:
    """A scalar; rows without a token are no sequences."""
    tokens, sequences = int(mask_BT.sum()), int((mask_BT.sum(-1) > 0).sum())
    weights_BT = token_weights(mask_BT, aggregation, horizon=horizon, tokens=tokens, sequences=sequences)
    return (loss_BT * weights_BT).sum()
