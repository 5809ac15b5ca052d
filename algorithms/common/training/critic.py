"""A critic for PPO and Turn-PPO: a copy of the policy with a value head, and its regression onto returns."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import Flags, Float32s, RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.config import CriticConfig, OptimizerConfig
from algorithms.common.training.epochs import run_epochs
from algorithms.common.training.learner import Learner
from algorithms.common.training.loss import value_loss
from retrievers.random_streams import random_stream


class ValueHead(torch.nn.Linear):
    """The output layer of a critic; a separate type, so that it is sharded separately from a trunk in bfloat16."""


class ValueModel(torch.nn.Module):
    """V(s_t): the value of the state before each policy token. It is 0 everywhere before the first update."""

    _no_split_modules = ("ValueHead",)

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        trunk = copy.deepcopy(policy)
        self.trunk = trunk.model.base_model
        trunk.model.set_output_embeddings(None)  # large, and not part of the critic
        self.head = ValueHead(policy.width, 1, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self._policy = trunk

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Values [n] of the states before the masked tokens, row by row."""
        hidden_n = self._policy.hidden_states(ids_BT)[:, :-1][mask_BT[:, 1:]]
        values: Tensor = self.head(hidden_n.to(self.head.weight.dtype))[:, 0]
        return values.clone()  # a view would lose FSDP's hooks


class Critic:
    """The value model and its optimizer."""

    def __init__(
        self,
        policy: Policy,
        config: CriticConfig,
        optimizer: OptimizerConfig,
        processes: Processes | None = None,
        distributed: DistributedConfig | None = None,
    ) -> None:
        self.config = config
        self.learner = Learner(
            ValueModel(policy),
            optimizer,
            processes or Processes(),
            distributed or DistributedConfig(),
            lr=config.lr,
            weight_decay=0.0,
            pad_id=policy.tokenizer.pad_id,
            device=policy.device,
            dtype=policy.compute_dtype,
        )

    def values(self, buffer: RolloutBuffer) -> Float32s:
        """One value per policy token."""
        return self.learner.map_policy_tokens(buffer, self.learner.module)

    def update(
        self, buffer: RolloutBuffer, targets: Float32s, step: int, seed: int, mask: Flags | None = None
    ) -> dict[str, float]:
        """Gradient steps towards `targets`, one per policy token; `buffer.values` are the old values.

        `mask`: the policy tokens that the loss and the explained variance are means over; None: all.
        """
        old = buffer.values
        assert old is not None
        module, device = self.learner.module, self.learner.device

        def loss_of(batch: MicroBatch, *, tokens: int, sequences: int) -> tuple[Tensor, dict[str, Tensor]]:
            values = module(batch.ids_BT, batch.mask_BT)
            index = buffer.flat_index(batch.rows)
            before, wanted = (torch.from_numpy(x[index]).to(device) for x in (old, targets))
            losses = value_loss(values, before, wanted, self.config.value_clip)
            if mask is not None:
                losses = losses[torch.from_numpy(mask[index]).to(device)]
            loss = losses.sum() / max(tokens, 1)
            return loss, {"loss": loss.detach()}

        steps = run_epochs(
            self.learner,
            buffer,
            targets,
            loss_of,
            rng=random_stream("mini-batches of the critic", seed, step),
            shuffle=True,
            lr=self.config.lr * min(1.0, step / max(self.config.warmup_steps, 1)),
            what=f"step {step}, the critic",
            counts_N=None if mask is None else np.add.reduceat(mask.astype(np.int64), buffer.first_token),
        )
        losses = [sums["loss"] for _, sums in steps]
        wanted, errors = (x if mask is None else x[mask] for x in (targets, targets - old))
        variance = float(np.var(wanted))
        explained = 1 - float(np.var(errors)) / variance if variance > 0 else 0.0
        return {"loss/value": float(np.mean(losses)), "critic/explained_variance": explained}
