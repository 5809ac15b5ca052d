"""`Learner`: a module and its optimizer, on one process or several: an optimizer step of policy and critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from algorithms.common.base.errors import TrainingError
from algorithms.common.distributed.processes import DistributedConfig, Processes
from algorithms.common.distributed.sharding import gather_full_tensor
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from igsearch_env.errors import check_literals, check_range

# A micro-batch's loss (its share of the mini-batch's sum) and what to log of it, summed likewise.
LossOf = Callable[[MicroBatch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"token_budget"})

    lr: float = 3e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.99
    """Decay of the gradient's square."""
    warmup_steps: int = 5
    """Steps of linear warm-up."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or decayed linearly or by a cosine to 0 at the last step."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    epochs: int = 1
    """Passes over each buffer."""
    num_minibatches: int = 1
    """Optimizer steps a pass; trajectories are dealt out at random."""
    token_budget: int = 2_048
    """Padded tokens a micro-batch: bounds memory, changes no number."""

    def __post_init__(self) -> None:
        check_literals(self, "optimizer")
        check_range("optimizer.lr", self.lr, 0)
        check_range("optimizer.warmup_steps", self.warmup_steps, 0)
        check_range("optimizer.max_grad_norm", self.max_grad_norm, 1e-9)
        check_range("optimizer.epochs", self.epochs, 1)
        check_range("optimizer.num_minibatches", self.num_minibatches, 1)
        check_range("optimizer.token_budget", self.token_budget, 1)

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, from 1, of a run of `steps`."""
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        if self.lr_scheduler_type == "linear":
            return self.lr * (1 - progress)
        if self.lr_scheduler_type == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr


class Learner:
    """A module that is trained. Gradients are sums over all processes' shares of a mini-batch.

    Args:
        module: called with (ids_BT, mask_BT, ...); its parameters that require a gradient are trained.
        options: of the optimizer; `lr` and `weight_decay` are given apart, as a critic has its own.
        dtype: of sharded weights where they compute; None: their own.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        options: OptimizerConfig,
        processes: Processes,
        distributed: DistributedConfig,
        *,
        lr: float,
        weight_decay: float,
        pad_id: int,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.processes = processes
        self.options = options
        self.pad_id, self.device = pad_id, device
        self.sharded = distributed.sharding == "fsdp2"
        self.module = processes.wrap(module, distributed, dtype)
        self.token_budget = options.token_budget
        self._summing = False  # whether gradients are on their way to other processes
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, betas=(options.beta1, options.beta2), weight_decay=weight_decay
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def step(
        self, buffer: RolloutBuffer, values: Float32s, rows: Sequence[int], loss_of: LossOf, *, lr: float, what: str
    ) -> tuple[float, dict[str, float]]:
        """One optimizer step on the trajectories `rows`; `values`, one a policy token, fill `advantages_BT`.

        Returns the norm of the gradient and the sums of what `loss_of` logs. The split into micro-batches bounds memory
        and changes no number: where one does not fit, the budget is halved and the step begins again.
        """
        mine = list(rows)
        if self.processes.size > 1:  # long and short ones to everybody
            mine = sorted(mine, key=lambda row: -len(buffer.sequences[row].ids))[
                self.processes.rank :: self.processes.size
            ]
        while True:
            self.optimizer.zero_grad()
            batches = list(buffer.micro_batches(values, mine, self.token_budget, self.pad_id))
            try:
                sums = self._accumulate(buffer, batches, loss_of)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            # Outside of the handler, whose traceback holds tensors.
            self.optimizer.zero_grad()
            self.token_budget = halve_token_budget(self.token_budget, batches, reason, what, self._together)
        with self.processes.guard(what):
            norm = float(
                gather_full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm))
            )
        parts = self.processes.gather(sums)
        totals = {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}
        if not np.isfinite(norm):
            raise TrainingError(
                f"{what}: the gradient norm is {norm}, the losses {totals}; the weights are left as they were. Lower "
                "optimizer.lr (of a critic: critic.lr), or look for a reward that is not finite; the run "
                "resumes from its last checkpoint"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return norm, totals

    def _accumulate(self, buffer: RolloutBuffer, batches: list[MicroBatch], loss_of: LossOf) -> dict[str, float]:
        """Forward and backward over this process's micro-batches."""
        processes = self.processes
        self._summing = False
        if processes.size > 1:
            if self.sharded:
                batches = processes.pad_to_longest(batches, lambda: buffer.blank_batch(self.pad_id))
            else:
                # DistributedDataParallel sums in a backward pass, from its forward pass on: one that teaches nothing,
                # so that memory that runs out in any other is this process's own affair.
                batches = [*batches, buffer.blank_batch(self.pad_id)]
        totals: dict[str, float] = {}
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with processes.accumulating(self.module, last), processes.guard("a backward pass"):
                loss, parts = loss_of(batch.to(self.device))
                self._summing = last and processes.size > 1
                (loss * processes.size).backward()  # type: ignore[no-untyped-call] # the gradient is a mean over them
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    @property
    def _together(self) -> str:
        """Why this process can't begin a step again alone, if it can't."""
        return "sharded" if self.sharded else "whose gradients are being summed" if self._summing else ""

    def map_policy_tokens(self, buffer: RolloutBuffer, compute: Callable[[Tensor, Tensor], Tensor]) -> Float32s:
        """`compute(ids_BT, mask_BT)` -> [n] over a whole buffer, in its flat layout; `compute` uses the module."""
        return map_policy_tokens(
            buffer, compute, self.pad_id, self.device, self.token_budget, self.processes, together=self.sharded
        )

    # ---------------------------------------------------------------- disk

    def save(self, folder: Path, name: str, *, weights: bool) -> None:
        """Write the optimizer's state, and the module's weights if asked: `folder`/`name`.pt, or `name`/ in shards."""
        state: dict[str, Any] = {"optimizer": get_optimizer_state_dict(self.module, self.optimizer)}
        if weights:
            state["model"] = get_model_state_dict(self.module)
        if self.sharded:
            save_shards(state, checkpoint_id=folder / name)
        elif self.processes.is_main:
            torch.save(state, folder / f"{name}.pt")

    def load(self, folder: Path, name: str, *, weights: bool) -> bool:
        """Restore what `save` wrote, by whatever number of processes; False if nothing is there."""
        options = StateDictOptions()
        if (folder / name).is_dir():
            state: dict[str, Any] = {"optimizer": get_optimizer_state_dict(self.module, self.optimizer)}
            if weights:
                state["model"] = get_model_state_dict(self.module)
            load_shards(state, checkpoint_id=folder / name)
        elif (folder / f"{name}.pt").is_file():
            state = torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")
            options = StateDictOptions(full_state_dict=self.sharded)
        else:
            return False
        if weights:
            set_model_state_dict(self.module, state["model"], options=options)
        set_optimizer_state_dict(self.module, self.optimizer, state["optimizer"], options=options)
        return True


@torch.no_grad()
def map_policy_tokens(
    buffer: RolloutBuffer,
    compute: Callable[[Tensor, Tensor], Tensor],
    pad_id: int,
    device: torch.device,
    token_budget: int,
    processes: Processes,
    *,
    together: bool = False,
) -> Float32s:
    """`compute(ids_BT, mask_BT)` -> [n] over a whole buffer, in its flat layout, each process its share.

    `together`: `compute` is a pass of a sharded model, of which all processes must make as many.
    """
    counts = buffer.policy_tokens
    rows = processes.share(len(counts))
    flat = np.zeros(int(counts.sum()), dtype=np.float32)
    while True:
        batches = list(buffer.micro_batches(flat, rows, token_budget, pad_id))
        if together:
            batches = processes.pad_to_longest(batches, lambda: buffer.blank_batch(pad_id))
        try:
            for batch in batches:
                values = compute(batch.ids_BT.to(device), batch.mask_BT.to(device))
                if batch.rows:
                    flat[buffer.flat_index(batch.rows)] = values.float().cpu().numpy()
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        token_budget = halve_token_budget(
            token_budget, batches, reason, "log-probs and values", "sharded" if together else ""
        )
    first = int(counts[: rows.start].sum())
    return np.concatenate(processes.gather(flat[first : first + int(counts[rows.start : rows.stop].sum())]))


def halve_token_budget(budget: int, batches: Sequence[MicroBatch], reason: str, what: str, together: str = "") -> int:
    """Half of a token budget whose micro-batches did not fit into memory.

    `together`: why processes that work on one micro-batch can't begin again one by one. Raises `TrainingError` then,
    and where a micro-batch can't be split.
    """
    largest = max(batches, key=lambda batch: batch.ids_BT.numel())
    tokens, rows = largest.ids_BT.numel(), len(largest.rows)
    if together or rows == 1:
        why = f"one trajectory of {tokens} tokens" if rows == 1 else f"a micro-batch of {tokens} tokens, {together},"
        raise TrainingError(
            f"{what}: out of memory, and {why} can't be split further ({reason}). Set "
            f"policy.gradient_checkpointing true, optimizer.token_budget below {tokens}, a shorter "
            "policy.context_length or policy.lora.rank; the run resumes from its last checkpoint"
        )
    budget = min(budget, tokens) // 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"{what}: out of memory at {tokens} tokens a micro-batch; going on with {budget}", flush=True)
    return budget


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    told = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in told)
