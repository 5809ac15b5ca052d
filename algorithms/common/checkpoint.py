"""Checkpoints: everything a run needs to go on as if it had never stopped, each written whole or not at all.

Every draw of a run is derived from (seed, step), so weights, optimizer state and the step are all there is.

    RUN_DIR/checkpoints/step-000020/   model and tokenizer (transformers format), optimizer.pt, state.json,
                                       critic.pt where there is one
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from algorithms.common.critic import Critic
from algorithms.common.policy import Policy
from igsearch_env.errors import IGSearchError

FORMAT = 1


class CheckpointError(IGSearchError, ValueError):
    """A checkpoint that can't be resumed; the message says why and what to do."""


def save_checkpoint(
    folder: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    critic: Critic | None,
    step: int,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `folder`/step-<step> and drop all but the latest `keep`."""
    target = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    policy.save(partial)
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    if critic is not None:
        content = {"model": critic.model.state_dict(), "optimizer": critic.optimizer.state_dict()}
        torch.save(content, partial / "critic.pt")
    shapes = {name: list(p.shape) for name, p in policy.model.named_parameters()}
    header = {"format": FORMAT, "step": step, "shapes": shapes, **state}
    (partial / "state.json").write_text(json.dumps(header))
    if target.exists():
        shutil.rmtree(target)
    os.replace(partial, target)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/state.json"))


def load_checkpoint(path: Path, policy: Policy, optimizer: torch.optim.Optimizer, critic: Critic | None = None) -> int:
    """Restore weights and optimizers in place; returns the number of steps done."""
    state = json.loads((path / "state.json").read_text())
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {state['format']}, this version reads {FORMAT}; start again")
    shapes = {name: list(p.shape) for name, p in policy.model.named_parameters()}
    if shapes != state["shapes"]:
        differing = next(
            name for name in sorted({*shapes, *state["shapes"]}) if shapes.get(name) != state["shapes"].get(name)
        )
        raise CheckpointError(
            f"{path}: the checkpoint of another model ({differing} is {state['shapes'].get(differing)} there, "
            f"{shapes.get(differing)} in policy.path); give the policy it was made with, or another run_dir"
        )
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights.update(load_file(file))
    missing, unexpected = policy.model.load_state_dict(weights, strict=False)
    tied = set(getattr(policy.model, "all_tied_weights_keys", None) or getattr(policy.model, "_tied_weights_keys", []))
    if unexpected or set(missing) - tied:
        raise CheckpointError(f"{path}: weights missing {missing}, unexpected {unexpected}; start again")
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True, map_location=policy.device))
    if critic is not None:
        if not (path / "critic.pt").is_file():
            raise CheckpointError(f"{path}: no critic.pt in it, which this algorithm needs; start again")
        saved = torch.load(path / "critic.pt", weights_only=True, map_location=policy.device)
        critic.model.load_state_dict(saved["model"])
        critic.optimizer.load_state_dict(saved["optimizer"])
    return int(state["step"])
