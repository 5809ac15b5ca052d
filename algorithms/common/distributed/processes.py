"""`Processes`: the processes of a run. One without a launcher; several under `torchrun` or `accelerate launch`.

Every process collects whole groups, then all gather the whole buffer: each computes everything about a batch
(advantages, whitening, logs, the rules that stop a run) from all of it, so no explicit reduction is needed. Only the
passes of the model are divided (`sharding.py`). accelerate sets up the process group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.failures import RESUMES, lost_process, world_size
from igsearch_env.errors import ConfigurationError, IGSearchError

T = TypeVar("T")
_LEFT: list[Any] = []  # process groups after `close`, kept alive until the process ends


class Processes:
    """This process among those of a run. Gathered lists have one entry per process, in order of rank."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.repair = RESUMES
        """What to do after the loss of a process, for messages."""
        self._group: Any = None

    @classmethod
    def start(cls, config: DistributedConfig, device: str = "auto") -> Processes:
        """Join the process group, if a launcher started several processes; `device` is `policy.device`."""
        if world_size() == 1:
            return cls()
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and config.sharding == "none":
            raise ConfigurationError(
                "accelerate launch is configured to shard (FSDP), but distributed.sharding is 'none': launch without "
                "FSDP, and choose with --distributed.sharding none or fsdp2"
            )
        if device not in ("auto", "cpu"):
            raise ConfigurationError(
                f"policy.device={device!r} for {world_size()} processes: each uses the device of its "
                "rank; set it to auto or cpu"
            )
        from accelerate import PartialState

        cpu = device == "cpu" or not torch.cuda.is_available()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if not cpu and here > torch.cuda.device_count():
            raise ConfigurationError(
                f"{here} processes on a machine with {torch.cuda.device_count()} GPUs: each needs its own; start "
                f"{torch.cuda.device_count()} (--nproc-per-node, --num_processes), or set policy.device to cpu"
            )
        if "LOCAL_RANK" not in os.environ:
            raise ConfigurationError(
                f"WORLD_SIZE={world_size()} without LOCAL_RANK: no launcher has started these processes; "
                "start them with torchrun or accelerate launch, or unset WORLD_SIZE for one process"
            )
        state = PartialState(cpu=cpu, timeout=timedelta(minutes=config.timeout_minutes))
        processes = cls(state.process_index, state.num_processes, state.device)
        if dist.get_backend() != "gloo":
            # Python objects are sent through the CPU, so that they take no GPU memory.
            processes._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=config.timeout_minutes))
        return processes

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files, logs and the terminal output (rank 0)."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's contiguous share of `count` items; shares differ by at most one item."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, value: T) -> list[T]:
        """All-gather: the `value` of every process, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.guard("gathering"):
            dist.all_gather_object(values, value, group=self._group)
        return values

    def all_gather_flat(self, values: Sequence[T]) -> list[T]:
        """The `values` of all processes, concatenated in order of rank."""
        return [value for part in self.gather(list(values)) for value in part]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def run_on_main(self, function: Callable[[], T]) -> T:
        """Run `function` on rank 0; every process returns its result or raises its `IGSearchError`."""
        if self.size == 1:
            return function()
        result: tuple[T | None, IGSearchError | None] = (None, None)
        if self.is_main:
            try:
                result = (function(), None)
            except IGSearchError as refusal:
                result = (None, refusal)
        value, raised = self.gather(result)[0]
        if raised is not None:
            raise raised
        return value  # type: ignore[return-value] # of rank 0, so it is a T

    def pad_to_longest(self, batches: Sequence[T], blank: Callable[[], T]) -> list[T]:
        """`batches`, padded with blank ones to the largest number on any process, and to at least one.

        A pass of a sharded model is a collective operation: all processes must make the same number.
        """
        if self.size == 1:
            return list(batches)
        most = max(1, *self.gather(len(batches)))
        return [*batches, *(blank() for _ in range(most - len(batches)))]

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turns a back end's error about a lost process into a `DistributedError` that names the repair."""
        try:
            yield
        except RuntimeError as error:
            lost = (
                None
                if self.size == 1
                else lost_process(error, f"process {self.rank} of {self.size}, {what}", self.repair)
            )
            if lost is None:
                raise
            raise lost from error

    def close(self) -> None:
        """Leave the process group; call `end_process` afterwards."""
        if self.size > 1 and dist.is_initialized():
            # A wrapped model that releases the last reference to a group joins its threads while it holds the GIL, for
            # which they may be waiting.
            _LEFT.extend((dist.group.WORLD, self._group))
            dist.destroy_process_group()
