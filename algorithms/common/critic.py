"""A critic for PPO: a copy of the policy with a value head, and its regression onto returns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from algorithms.common.buffer import Floats, RolloutBuffer
from algorithms.common.config import OptimizerConfig
from algorithms.common.errors import TrainingError
from algorithms.common.loss import value_loss
from algorithms.common.policy import Policy
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class CriticConfig:
    """The critic; what is not here (passes, mini-batches, gradient norm, memory) is as in `optimizer`."""

    lr: float = 1e-3
    """Learning rate."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    value_clip: float = 0.5
    """A value may move this far from its old one in an update before it earns nothing more."""

    def __post_init__(self) -> None:
        check_range("critic.lr", self.lr, 0)
        check_range("critic.warmup_steps", self.warmup_steps, 0)
        check_range("critic.value_clip", self.value_clip, 1e-9)


class Critic:
    """V(s_t): the value of what stands before each policy token. It says 0 everywhere before its first update."""

    def __init__(self, policy: Policy, config: CriticConfig, optimizer: OptimizerConfig) -> None:
        self.config, self.options = config, optimizer
        self.trunk = copy.deepcopy(policy)
        self.head = torch.nn.Linear(self.trunk.width, 1, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.model = torch.nn.ModuleDict({"trunk": self.trunk.model.base_model, "head": self.head})
        betas = (optimizer.beta1, optimizer.beta2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, betas=betas, weight_decay=0.0)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Values [n] of the masked tokens, row by row: of the states before them."""
        hidden_n = self.trunk.hidden_states(ids_BT)[:, :-1][mask_BT[:, 1:]]
        values: Tensor = self.head(hidden_n.to(self.head.weight.dtype)).squeeze(-1)
        return values

    def values(self, buffer: RolloutBuffer) -> Floats:
        """One value per policy token."""
        return per_token(buffer, self.forward, self.trunk, self.options.token_budget)

    def update(self, buffer: RolloutBuffer, targets: Floats, step: int, seed: int) -> dict[str, float]:
        """Gradient steps towards `targets`, one per policy token; `buffer.values` are the old values."""
        old = buffer.values
        assert old is not None
        options, device = self.options, self.trunk.device
        rng = np.random.default_rng([seed, step, 4])
        losses = []
        for _ in range(options.epochs):
            for part in np.array_split(rng.permutation(len(buffer.trajectories)), options.minibatches):
                tokens = int(buffer.policy_tokens[part].sum())
                total = 0.0
                self.optimizer.zero_grad()
                for batch in buffer.micro_batches(targets, part.tolist(), options.token_budget, self.trunk.pad_id):
                    index = buffer.flat_index(batch.rows)
                    values = self.forward(batch.ids_BT.to(device), batch.mask_BT.to(device))
                    before, wanted = (torch.from_numpy(x[index]).to(device) for x in (old, targets))
                    loss = value_loss(values, before, wanted, self.config.value_clip).sum() / tokens
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.max_grad_norm)
                if not torch.isfinite(norm):
                    raise TrainingError(
                        f"step {step}: the critic's gradient norm is {norm}, its loss {total}; its weights are left as "
                        "they were. Lower critic.lr; the run resumes from its last checkpoint"
                    )
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.lr * min(1.0, step / max(self.config.warmup_steps, 1))
                self.optimizer.step()
                losses.append(total)
        variance = float(np.var(targets))
        explained = 1 - float(np.var(targets - old)) / variance if variance > 0 else 0.0
        return {"loss/value": float(np.mean(losses)), "critic/explained_variance": explained}


@torch.no_grad()
def per_token(
    buffer: RolloutBuffer, compute: Callable[[Tensor, Tensor], Tensor], policy: Policy, token_budget: int
) -> Floats:
    """`compute(ids_BT, mask_BT)` -> [n], over a whole buffer, in its flat layout."""
    flat = np.zeros(int(buffer.policy_tokens.sum()), dtype=np.float32)
    rows = range(len(buffer.trajectories))
    for batch in buffer.micro_batches(np.zeros_like(flat), rows, token_budget, policy.pad_id):
        values = compute(batch.ids_BT.to(policy.device), batch.mask_BT.to(policy.device))
        flat[buffer.flat_index(batch.rows)] = values.float().cpu().numpy()
    return flat
