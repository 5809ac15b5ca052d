"""Weights are read from files by one process of a run, and sent to the others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from algorithms.common.distributed.processes import Processes


def load_once(load: Callable[[], Any], device: torch.device, processes: Processes) -> Any:
    """The module that `load` returns on rank 0, with the same weights on every process, on `device`.

    Only rank 0 calls `load`, so the files are read once, and no other process holds more than its copy. Every process
    raises the `IGSearchError` that it raises. Modules are exchanged as the groups of a rollout are: between the
    processes of one run.
    """
    if processes.size == 1:
        return load()
    whole: list[Any] = []

    def skeleton() -> Any:
        with torch.random.fork_rng(devices=[]):  # other processes draw nothing here
            whole.append(load())
        return without_weights(whole[0])

    module = processes.run_on_main(skeleton)
    if processes.is_main:
        module = whole[0]
    else:
        _materialize(module, device)
    with processes.guard("sending the weights"):
        for tensor in _tensors(module).values():
            dist.broadcast(tensor.detach(), src=0)
    return module


def without_weights(module: Any) -> Any:
    """A copy of a module whose parameters and buffers have no data (device meta)."""
    empty: dict[int, Any] = {}
    for tensor in _tensors(module).values():
        blank = torch.empty_like(tensor, device="meta")
        empty[id(tensor)] = nn.Parameter(blank, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else blank
    return copy.deepcopy(module, empty)


def _tensors(module: nn.Module) -> dict[int, Tensor]:
    """The parameters and buffers of a module, each once, in the order of its modules."""
    found: dict[int, Tensor] = {}
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                found.setdefault(id(tensor), tensor)
    return found


def _materialize(module: nn.Module, device: torch.device) -> None:
    """Allocate the parameters and buffers of a module; those that are shared stay so."""
    real: dict[int, Any] = {}
    for part in module.modules():
        for places in (part._parameters, part._buffers):
            for name, tensor in places.items():
                if tensor is None:
                    continue
                if id(tensor) not in real:
                    blank = torch.empty_like(tensor, device=device)
                    trained = isinstance(tensor, nn.Parameter)
                    real[id(tensor)] = nn.Parameter(blank, tensor.requires_grad) if trained else blank
                places[name] = real[id(tensor)]
