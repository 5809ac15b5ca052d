"""DDP and FSDP2: wrapping a module, accumulating its gradients, and gathering sharded tensors.

torch reduces the gradients: DistributedDataParallel, or FSDP2's `fully_shard`, which also shards on a CPU, where
accelerate does not (so the tests can run it).
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.processes import Processes
from igsearch_env.errors import ConfigurationError


def wrap_module(
    module: torch.nn.Module, processes: Processes, config: DistributedConfig, dtype: torch.dtype | None = None
) -> torch.nn.Module:
    """Wrap `module`, so that its gradients are means over the processes. `dtype`: compute precision of sharded weights.

    Sharding is in place: weights, gradients and the states of an optimizer created afterwards are divided among the
    processes, block by block. Raises `ConfigurationError` for sharding in a single process.
    """
    if config.sharding == "fsdp2":
        if processes.size == 1:
            raise ConfigurationError(
                "distributed.sharding='fsdp2' in one process: start several with `accelerate launch` or "
                "`torchrun`, or set it to none"
            )
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # By default torch would use the GPUs of the machine, even for processes that are set to use the CPU.
        mesh = init_device_mesh("cpu" if processes.device is None else processes.device.type, (processes.size,))
        precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for block in _blocks(module):
            fully_shard(block, mesh=mesh, mp_policy=precision)
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
        return module
    if processes.size == 1:
        return module
    wrapper = torch.nn.parallel.DistributedDataParallel
    # Buffers are constant here, and the number of passes without gradient differs between processes.
    new = "forward_sync_buffers" in inspect.signature(wrapper).parameters
    still: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    with processes.guard("setting up"):
        return wrapper(module, **still)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module that `wrap_module` was given: DistributedDataParallel is a module around it, sharding is in place."""
    inner = module.module if isinstance(module, torch.nn.parallel.DistributedDataParallel) else module
    assert isinstance(inner, torch.nn.Module)
    return inner


def accumulate_gradients(module: torch.nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Context of a forward and backward pass: gradients are synchronised in that of the last micro-batch only."""
    if isinstance(module, torch.nn.parallel.DistributedDataParallel) and not last:
        waiting: AbstractContextManager[None] = module.no_sync()
        return waiting
    return nullcontext()


def gather_full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of one that may be sharded. Every process must call it."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = gather() if gather is not None else tensor
    return whole.detach()


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers: the modules that transformers marks as not to be split."""
    names = {name for part in module.modules() for name in (getattr(part, "_no_split_modules", None) or ())}
    return [part for part in module.modules() if type(part).__name__ in names]
