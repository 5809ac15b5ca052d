"""Warm start: supervised training of a policy on demonstrations, then on its own successful episodes.

    igsearch warm-start --policy.path HuggingFaceTB/SmolLM2-135M-Instruct --env.corpus corpus.jsonl.gz \\
        --env.questions nq.jsonl.gz:train hotpotqa.jsonl.gz:train --env.dev-questions nq.jsonl.gz:test[:40] \\
        --warm-start.folder runs/warm-start

A pretrained model does not know the format of an episode. A scripted policy plays training questions through the same
environment and protocol as training; its successful episodes are the first training data (the loss is on what a policy
writes, as in training). Then the model plays questions itself and is trained on the episodes that succeed (rejection
sampling). Training begins from the result with the same --warm-start.folder: `igsearch train` makes a warm start itself
if that folder has none. Options are those of training; an interrupted warm start resumes.
"""

from __future__ import annotations

from pathlib import Path

from algorithms.common.command import run_command
from algorithms.common.config import TrainConfig
from igsearch_env.errors import ConfigurationError


def main(config: TrainConfig) -> Path:
    """Make the warm start unless it is there; returns the folder of its policy."""
    if config.warm_start.folder is None:
        raise ConfigurationError("warm_start.folder is not set: give the folder to write, --warm-start.folder FOLDER")
    from algorithms.common.distributed.processes import Processes  # slow: torch
    from algorithms.common.run.setup import make_torch_deterministic
    from algorithms.common.warm_start.warm_start import warm_started

    make_torch_deterministic(config.seed, config.threads)
    folder = Path(warm_started(config).policy.path)
    processes = Processes.start(config.distributed, config.policy.device)
    if processes.is_main:
        print(folder)
    processes.close()
    return folder


def command() -> None:
    """Make a warm start from the command line."""
    run_command(TrainConfig, main, __doc__)
