"""Forward and backward passes on the device, alone and sharded on one rank; a whole step with short turns."""

from __future__ import annotations

import time
from typing import Any

import torch

from algorithms.common.model.policy import Policy, PolicyModule
from benchmarks import large
from benchmarks.gpu.sizes import Report, Sizes
from benchmarks.machine_rates import synchronize
from benchmarks.step_costs import ADAMW_BYTES, ModelShape, Pass, Work, update


def training(sizes: Sizes, report: Report) -> None:
    """An update of one micro-batch with float32 weights, products in the device's precision, and recomputation."""
    policy = _trained(sizes, sizes.layers)
    rates = sizes.rates(policy)
    module = PolicyModule(policy)
    taken = [_forward_backward(sizes, module) for _ in range(3)]
    shape, (rows, length, written) = ModelShape.of(policy.model.config), sizes.rows
    one = Pass.of_blocks([(length, 0)] * rows, rows * written)
    work = list(update(shape, [one], recomputed=True, output_recomputed=True))
    operations = sum(w.operations for w in work)
    report(
        {
            "tokens": one.tokens,
            "first": taken[0],
            "seconds": min(taken),
            "TFLOP": operations / 1e12,
            "TFLOP/s": operations / min(taken) / 1e12,
            "MFU": operations / min(taken) / rates.products[-1][1],
            "over the floor": min(taken) / rates.seconds(w for w in work if w.operations),
        }
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6, fused=True)
    for number in range(2):  # the first makes the moments
        synchronize(sizes.device)
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        synchronize(sizes.device)
        spent = time.perf_counter() - start
        floor = rates.seconds([Work(0, ADAMW_BYTES * shape.weights)])
        report({"AdamW": number, "seconds": spent, "over the floor": spent / floor})


def sharded(sizes: Sizes, report: Report) -> None:
    """FSDP2 on one rank (NCCL on a GPU): what its hooks and casts cost over the same passes without it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    layers = min(8, sizes.layers)
    module = PolicyModule(_trained(sizes, layers))
    plain = min(_forward_backward(sizes, module) for _ in range(3))
    del module
    backend = "nccl" if sizes.device == "cuda" else "gloo"
    store = torch.distributed.HashStore()  # type: ignore[attr-defined] # within this process: no port
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        policy = _trained(sizes, layers, compute=None)
        module = PolicyModule(policy)
        mesh = init_device_mesh(sizes.device, (1,))
        precision = MixedPrecisionPolicy(param_dtype=sizes.precision, reduce_dtype=torch.float32)
        for block in policy.body.layers:
            fully_shard(block, mesh=mesh, mp_policy=precision)
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
        taken = min(_forward_backward(sizes, module) for _ in range(3))
        gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
        whole = sum(all(isinstance(x, DTensor) for x in pair) for pair in gradients)
    finally:
        torch.distributed.destroy_process_group()
    counts = {"parameters": len(gradients), "sharded with their gradients": whole}
    report({"backend": backend, "layers": layers, **counts, "plain": plain, "FSDP2": taken, "ratio": taken / plain})


def whole(sizes: Sizes, report: Report) -> None:
    """`benchmarks.large` with short turns, and half of the layers: the model is written to disk and read again."""
    on_gpu = sizes.device == "cuda"
    args = large.Args(
        device=sizes.device,
        shape=sizes.shape,
        layers=sizes.layers // 2,
        vocabulary=sizes.vocabulary,
        questions_per_step=sizes.questions,
        max_searches=sizes.searches,
        max_new_tokens=sizes.turn,
        observation=sizes.evidence,
        compute_dtype="bfloat16" if on_gpu else None,
        sampler_dtype="bfloat16" if on_gpu else None,
        token_budget=16_384,
    )
    for line in large.lines(args):
        report({"figure": line.name.strip(), "value": line.value, "unit": line.unit, "detail": line.detail})


def _trained(sizes: Sizes, layers: int, compute: torch.dtype | None = torch.bfloat16) -> Policy:
    name = None if compute is None or sizes.device == "cpu" else "bfloat16"
    return sizes.policy(layers, torch.float32, compute_dtype=name, gradient_checkpointing=True)


def _forward_backward(sizes: Sizes, module: Any) -> float:
    rows, length, written = sizes.rows
    ids_BT = torch.randint(300, 1_200, (rows, length), device=sizes.device)
    mask_BT = (torch.arange(length, device=sizes.device) >= length - written).expand(rows, -1)
    module.zero_grad()
    synchronize(sizes.device)
    start = time.perf_counter()
    module(ids_BT, mask_BT)[0].sum().backward()
    synchronize(sizes.device)
    return time.perf_counter() - start
