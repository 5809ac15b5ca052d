"""Train with TRL: `IGSearchTrainer` on the bundled world, or on a model, questions and a corpus of your own.

    python integrations/trl/train.py --algorithm ig_grpo --steps 10
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.setup import choose_threads
from integrations.trl.dataset import question_dataset


@dataclass(frozen=True)
class Args:
    """Options; those of the environment are as in `algorithms/ig_grpo.py`."""

    algorithm: str = "ig_grpo"
    """Name of the algorithm."""
    model: str = "bundled"
    """Folder or name of a model, or `bundled`."""
    steps: int = 10
    """Optimizer steps."""
    questions_per_step: int = 16
    """Questions of a step."""
    group_size: int = 8
    """Rollouts per question (TRL: num_generations)."""
    micro_batch: int = 16
    """Trajectories of a forward pass (TRL: per_device_train_batch_size)."""
    lr: float = 3e-4
    """Peak learning rate, after five steps of warm-up."""
    bf16: bool = False
    """Compute in bfloat16 under autocast."""
    context_length: int | None = None
    """Maximum sequence length, tokens; default: that of the model."""
    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    output: Path = Path("runs/trl")
    """Folder of checkpoints and logs."""
    seed: int = 0
    """Random seed."""
    env: EnvConfig = EnvConfig()
    """The environment; of the questions, only `questions` are used."""
