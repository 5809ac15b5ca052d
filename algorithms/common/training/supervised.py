"""Supervised training on recorded episodes: cross-entropy of the tokens that the policy wrote in them.

`WarmStartConfig` is the section `warm_start` of a configuration, which `algorithms/common/warm_start` follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.learner import Learner


def supervised_update(
    learner: Learner, buffer: RolloutBuffer, rows: Sequence[int], *, lr: float, what: str
) -> dict[str, float]:
    """One optimizer step on the trajectories `rows`; returns their mean loss per policy token and the gradient norm.

    The loss mask is that of reinforcement learning: what the policy only read has no loss.
    """
    ones = np.ones(int(buffer.policy_tokens.sum()), dtype=np.float32)
    tokens = int(buffer.policy_tokens[list(rows)].sum())
    loss_of = partial(_micro_batch_loss, learner.module, tokens)
    norm, sums = learner.step(buffer, ones, rows, loss_of, lr=lr, what=what)
    return {"warm_start/loss": sums["loss"], "warm_start/grad_norm": norm, "warm_start/lr": lr}


def weighted_cross_entropy(module: torch.nn.Module, ids_BT: Tensor, weights_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over tokens of weight times negative log-prob, and that negative log-prob [n] of each token with a weight.

    Args:
        module: a `PolicyModule`.
        ids_BT: token ids, padded on the right.
        weights_BT: loss weight of each token given all before it; 0 for the first token of each row.
    """
    mask_BT = weights_BT != 0
    chosen, _ = module(ids_BT, mask_BT)
    return -(chosen * weights_BT[mask_BT]).sum(), -chosen.detach()


def _micro_batch_loss(module: torch.nn.Module, tokens: int, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    loss, _ = weighted_cross_entropy(module, batch.ids_BT, batch.advantages_BT / tokens)
    return loss, {"loss": loss.detach()}
