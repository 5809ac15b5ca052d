"""The folder of a run: made, or refused where it holds another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig, as_dict
from algorithms.common.run.checkpoint import CheckpointError

# Differences that do not change what a step computes, so that a run may be resumed with them.
RESUMABLE_SETTINGS = (
    *("steps", "run_dir", "overwrite", "config", "eval_every", "eval_limit", "save_every", "save_total_limit"),
    *(
        "distributed",
        "report_to",
        "project",
        "policy.device",
        "policy.attn_implementation",
        "policy.gradient_checkpointing",
    ),
    *("optimizer.token_budget", "rollout.token_budget", "rollout.kv_cache_tokens", "rollout.server_url"),
    *("rollout.gpu_memory_utilization", "env.max_failure_rate"),
)


def open_folder(folder: Path, algorithm: str, config: TrainConfig) -> None:
    """Make the folder with its config.yaml; raises `CheckpointError` rather than mix two runs in one."""
    if config.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    now = {"algorithm": algorithm, **as_dict(config)}
    if path.is_file():
        before, after = flat(yaml.safe_load(path.read_text(encoding="utf-8"))), flat(now)
        may_change = set(RESUMABLE_SETTINGS)
        if config.optimizer.lr_scheduler_type != "constant":
            may_change.remove("steps")  # a decaying schedule depends on it
        for key in after:
            if {key, key.partition(".")[0]} & may_change or after[key] == before.get(key):
                continue
            raise CheckpointError(
                f"{folder} holds a run with {key}={before.get(key)!r}, this command has {after[key]!r}; "
                "give another --run-dir, or --overwrite True to discard it"
            )
    path.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")
