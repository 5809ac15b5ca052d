"""Two steps of which one process runs out of memory once, under a launcher, for test_distributed.py.

one_process_without_room.py WHERE RANK OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from buffers import mixed_buffer
from torch import Tensor

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.failures import end_process
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.learner import Learner


def main(where: str, rank: str, output: str) -> None:
    """Writes the norm, the loss and the weights after each step of each process."""
    config = DistributedConfig(timeout_minutes=4)
    processes = Processes.start(config, "cpu")
    policy = Policy.load(PolicyConfig(device="cpu"))
    learner = Learner(
        PolicyModule(policy),
        OptimizerConfig(token_budget=100_000),
        processes,
        config,
        lr=1e-3,
        weight_decay=0.0,
        pad_id=policy.tokenizer.pad_id,
        device=policy.device,
    )
    buffer = mixed_buffer()
    advantages = np.linspace(-1, 1, int(buffer.policy_tokens.sum())).astype(np.float32)
    failing = rank == str(processes.rank)

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def loss_of(batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal failing
        chosen, _ = learner.module(batch.ids_BT, batch.mask_BT)
        if failing:
            failing = False
            out_of_memory() if where == "forward" else chosen.register_hook(out_of_memory)
        loss = (chosen * batch.advantages_BT[batch.mask_BT]).sum()
        return loss, {"loss": loss.detach()}

    steps_done = []
    for step in (1, 2):
        norm, sums = learner.step(buffer, advantages, range(len(buffer.trajectories)), loss_of, lr=1e-3, what="a step")
        weights = sum(float(p.detach().double().abs().sum()) for p in learner.parameters)
        steps_done.append([processes.rank, step, norm, sums["loss"], weights])
    everybody = processes.all_gather_flat(steps_done)
    if processes.is_main:  # alone: lines of two would run into each other
        Path(output).write_text(json.dumps(everybody))
    processes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process()
