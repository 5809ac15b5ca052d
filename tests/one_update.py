"""One update on a saved buffer, by as many processes as a launcher starts: test_distributed.py compares them.

one_update.py BUFFER RUN_DIR OUTPUT SHARDING
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.failures import end_process
from algorithms.common.distributed.sharding import gather_full_tensor
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.policy_update import policy_update
from algorithms.grpo import GRPO, GRPOConfig


def main(buffer_path: str, run_dir: str, output: str, sharding: str) -> None:
    """Writes the weights before and after, and the metrics."""
    buffer = RolloutBuffer.load(buffer_path)
    config = GRPOConfig(
        run_dir=Path(run_dir),
        overwrite=True,
        rollout=RolloutConfig(questions_per_step=6, group_size=4),
        optimizer=OptimizerConfig(warmup_steps=0, num_minibatches=2, token_budget=300),
        distributed=DistributedConfig(sharding=sharding),
    )
    make_torch_deterministic(config.seed)
    run = Run(GRPO(config), config)
    before = [gather_full_tensor(p).clone() for p in run.policy.model.parameters()]
    rng = np.random.default_rng(0)
    advantages = rng.standard_normal(int(buffer.policy_tokens.sum())).astype(np.float32)
    metrics = policy_update(
        run.learner,
        run.reference,
        buffer,
        advantages,
        config.loss,
        temperature=1.0,
        lr=config.optimizer.learning_rate(1, config.steps),
        step=1,
        seed=config.seed,
    )
    after = [gather_full_tensor(p) for p in run.policy.model.parameters()]
    if run.processes.is_main:
        torch.save({"before": before, "after": after, "metrics": metrics, "size": run.processes.size}, output)
    run.close()
    run.processes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process()
