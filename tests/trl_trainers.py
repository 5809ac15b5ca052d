"""Small trainers of TRL for the tests, and what they take; importing it skips the tests where TRL is missing."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no telemetry of TRL
pytest.importorskip("trl", reason="the package trl (extra `trl`) is not installed")

# Of transformers and accelerate, about options that TRL itself sets.
WARNINGS = [
    pytest.mark.filterwarnings(r"ignore:`(is_)?gradient_checkpointing\w*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using .environment_factory.:UserWarning"),
]


def arguments(folder: Path, **options: Any) -> Any:
    """TRL's `GRPOConfig`: 2 questions of 8 rollouts a step, in two micro-batches, without clipping of gradients."""
    usual = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "num_generations": 8,
        "max_completion_length": 256,
        "max_steps": 1,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return importlib.import_module("trl").GRPOConfig(str(folder), **{**usual, **options})
