"""Supervised training on recorded episodes: cross-entropy of the tokens that the policy wrote in them.

`WarmStartConfig` is the section `warm_start` of a configuration, which `algorithms/common/warm_start` follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.learner import Learner
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class WarmStartConfig:
    """A supervised start: demonstrations of a scripted policy, then the model's own successful episodes."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"save_every"})

    folder: Path | None = None
    """Folder of the warm start. Its policy is trained instead of policy.path, and made first unless it is there; runs
    may share it. None: no warm start."""
    demonstrations: int = 1_500
    """Successful episodes of the scripted policy to train on; fewer if the training questions give fewer."""
    titles: float = 0.6
    """Fraction of demonstrations that search the supporting titles, where these are known; the others search the
    question."""
    vague: float = 0.15
    """Fraction of demonstrations that begin with a vague query."""
    rounds: int = 1
    """Rounds of rejection sampling: the policy plays training questions and is trained on its successful episodes."""
    questions: int = 480
    """Training questions that the policy plays in a round."""
    samples: int = 4
    """Episodes per question in a round; at most two different successful ones of a question are kept."""
    temperature: float = 0.7
    """Sampling temperature in a round."""
    epochs: int = 1
    """Passes over the episodes of a round."""
    batch_size: int = 16
    """Episodes per optimizer step."""
    lr: float = 1e-4
    """Peak learning rate of a round: a linear warm-up over a tenth of its steps, then a linear decay to 0."""
    save_every: int = 50
    """Optimizer steps between checkpoints; there is one at the end of each round, too."""

    def __post_init__(self) -> None:
        for name in ("demonstrations", "questions", "samples", "epochs", "batch_size", "save_every"):
            check_range(f"warm_start.{name}", getattr(self, name), 1)
        check_range("warm_start.titles", self.titles, 0, 1)
        check_range("warm_start.vague", self.vague, 0, 1)
        check_range("warm_start.rounds", self.rounds, 0)
        check_range("warm_start.temperature", self.temperature, 1e-3)
        check_range("warm_start.lr", self.lr, 0)


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
