"""`Learner`: a module and its optimizer, in one process or several, used for the policy and the critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from algorithms.common.base.errors import TrainingError
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.distributed.sharding import accumulate_gradients, gather_full_tensor, unwrapped, wrap_module
from algorithms.common.distributed.tensor_files import TensorFileError, load_tensors, save_tensors, saved_names
from algorithms.common.rollout.buffer import Float32s, Ints, RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.micro_batching import map_policy_tokens, run_in_micro_batches

# A micro-batch's loss (its share of the mini-batch's sum) and values to log, summed likewise.
LossOf = Callable[[MicroBatch], tuple[Tensor, dict[str, Tensor]]]


TOKEN_BUDGET = "optimizer.token_budget"  # for messages
MOMENTS, WEIGHTS = "optimizer/", "model/"  # prefixes of the names of saved tensors


class Learner:
    """A module that is trained. Gradients are sums over all processes' shares of a mini-batch.

    Args:
        module: called with (ids_BT, mask_BT, ...); its parameters that require a gradient are trained.
        options: of the optimizer; `lr` and `weight_decay` are given separately, as a critic has its own.
        dtype: compute precision of sharded weights; None: that of the weights.
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
        self.module = wrap_module(module, processes, distributed, dtype)
        self.token_budget = options.token_budget
        self.steps_begun = 0
        """Optimizer steps that have changed the weights, or are doing so."""
        self._summing = False  # whether gradients are being summed over the processes
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=lr,
            betas=(options.beta1, options.beta2),
            weight_decay=weight_decay,
            fused=True,  # one pass over the weights without temporaries: four times as fast on a CPU
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def step(
        self,
        buffer: RolloutBuffer,
        values: Float32s,
        rows: Sequence[int],
        loss_of: LossOf,
        *,
        lr: float,
        what: str,
        lengths: Ints | None = None,
    ) -> tuple[float, dict[str, float]]:
        """One optimizer step on the trajectories `rows`; `values`, one per policy token, fill `advantages_BT`.

        Returns the norm of the gradient and the sums of what `loss_of` logs. If a micro-batch does not fit into memory,
        the token budget is halved, for later steps too, and the step is repeated.

        Args:
            lengths: tokens of each sequence of the buffer that are read; default: all.
        """
        lengths = buffer.lengths if lengths is None else lengths
        mine = [row for row in rows if lengths[row]]
        if len(rows) and not mine:  # a gradient of 0 is a step, too: the optimizer has momentum
            lengths = buffer.lengths
            mine = [min(rows, key=lambda row: int(lengths[row]))]
        if self.processes.size > 1:  # balances long and short ones over the processes
            mine = sorted(mine, key=lambda row: -int(lengths[row]))[self.processes.rank :: self.processes.size]
        sums, self.token_budget = run_in_micro_batches(
            lambda max_tokens: list(buffer.micro_batches(values, mine, max_tokens, self.pad_id, lengths)),
            lambda batches: self._accumulate(buffer, batches, loss_of),
            self.token_budget,
            option=TOKEN_BUDGET,
            what=what,
            discard=self.optimizer.zero_grad,
            together=self._together,
        )
        with self.processes.guard(what):
            norm = float(
                gather_full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm))
            )
        parts = self.processes.gather(sums)
        totals = {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}
        if not np.isfinite(norm):
            raise TrainingError(
                f"{what}: the gradient norm is {norm}, the losses {totals}; the weights are unchanged. Lower "
                "optimizer.lr (critic.lr of a critic, warm_start.lr of a warm start), or look for a reward that is not "
                "finite; the run resumes from its last checkpoint"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.steps_begun += 1  # before it begins: it may be interrupted
        self.optimizer.step()
        return norm, totals

    def _accumulate(self, buffer: RolloutBuffer, batches: list[MicroBatch], loss_of: LossOf) -> dict[str, float]:
        """Forward and backward over this process's micro-batches."""
        processes = self.processes
        self.optimizer.zero_grad()
        self._summing = False
        if processes.size > 1:
            if self.sharded:
                batches = processes.pad_to_longest(batches, lambda: buffer.blank_batch(self.pad_id))
            else:
                # DistributedDataParallel sums gradients in the last pass. That is a batch without loss, so that any
                # other pass that runs out of memory can be retried locally.
                batches = [*batches, buffer.blank_batch(self.pad_id)]
        totals: dict[str, float] = {}
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with accumulate_gradients(self.module, last=last), processes.guard("a backward pass"):
                loss, parts = loss_of(batch.to(self.device))
                self._summing = last and processes.size > 1
                (loss * processes.size).backward()  # type: ignore[no-untyped-call] # gradients are means over processes
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    def _together(self) -> str:
        """Why this process can't repeat a step on its own; empty if it can."""
        return "sharded" if self.sharded else "whose gradients are being summed" if self._summing else ""

    def map_policy_tokens(
        self, buffer: RolloutBuffer, compute: Callable[[Tensor, Tensor], Tensor], *, whole: bool = False
    ) -> Float32s:
        """`compute(ids_BT, mask_BT)` -> [n] over a whole buffer, in its flat layout.

        `compute` uses the module of this learner or, if `whole`, a model that is never sharded.
        """
        return map_policy_tokens(
            buffer,
            compute,
            self.token_budget,
            option=TOKEN_BUDGET,
            pad_id=self.pad_id,
            device=self.device,
            processes=self.processes,
            sharded=self.sharded and not whole,
        )

    # ---------------------------------------------------------------- disk

    def save(self, folder: Path, *, weights: bool) -> None:
        """Save the optimizer's state, and with `weights` the module's, in a new folder. Every process must call it."""
        tensors = {
            f"{MOMENTS}{name}.{key}": value
            for name, parameter in self._named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        if weights:
            tensors |= {f"{WEIGHTS}{name}": value for name, value in unwrapped(self.module).state_dict().items()}
        save_tensors(folder, tensors, self.processes)

    def load(self, folder: Path, *, weights: bool) -> None:
        """Load what `save` wrote, from any number of processes.

        Raises `TensorFileError` for a folder that is damaged or of another module.
        """
        saved = saved_names(folder)
        tensors: dict[str, Tensor] = {}
        states: dict[Tensor, dict[str, Tensor]] = {}
        for name, parameter in self._named_parameters():
            if f"{MOMENTS}{name}.step" in saved:  # not if the parameter had no gradient yet
                states[parameter] = {"step": torch.zeros(())}
                states[parameter] |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
                tensors |= {f"{MOMENTS}{name}.{key}": value for key, value in states[parameter].items()}
        if weights:
            tensors |= {f"{WEIGHTS}{name}": value for name, value in unwrapped(self.module).state_dict().items()}
        if unknown := saved - tensors.keys():
            raise TensorFileError(f"{folder}: it holds {min(unknown)}, which this algorithm and policy do not have")
        load_tensors(folder, tensors)
        self.optimizer.state.clear()
        self.optimizer.state.update(states)

    def _named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters that are trained, under names that do not depend on the number of processes."""
        return [(name, p) for name, p in unwrapped(self.module).named_parameters() if p.requires_grad]
