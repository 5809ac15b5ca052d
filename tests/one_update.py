"""One update on a saved buffer, by as many processes as a launcher starts: test_distributed.py compares them.

one_update.py BUFFER RUN_DIR OUTPUT SHARDING
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.config import DistributedConfig, OptimizerConfig, RolloutConfig
from algorithms.common.distributed import end_process, full
from algorithms.common.run import Run
from algorithms.common.trainer import update
from algorithms.grpo import GRPO, GRPOConfig


def main(buffer_path: str, run_dir: str, output: str, sharding: str) -> None:
    """Writes the weights before and after, and the metrics."""
    buffer = RolloutBuffer.load(buffer_path)
    config = GRPOConfig(
        run_dir=Path(run_dir),
        overwrite=True,
        rollout=RolloutConfig(questions=6, group_size=4),
        optimizer=OptimizerConfig(warmup_steps=0, minibatches=2, token_budget=300),
        distributed=DistributedConfig(sharding=sharding),
    )
    run = Run(GRPO(config), config)
    before = [full(p).clone() for p in run.policy.model.parameters()]
    rng = np.random.default_rng(0)
    advantages = rng.standard_normal(int(buffer.policy_tokens.sum())).astype(np.float32)
    metrics = update(run, buffer, advantages, 1)
    after = [full(p) for p in run.policy.model.parameters()]
    if run.processes.first:
        torch.save({"before": before, "after": after, "metrics": metrics, "size": run.processes.size}, output)
    run.close()
    run.processes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process()
