"""Checkpoints: everything that a run needs to resume and reproduce the uninterrupted result, written atomically.

Every random draw of a run is derived from (seed, step), so a checkpoint holds weights, optimizer state and the step.
It does not depend on the number of processes: any number of them, sharded or not, may resume.

    RUN_DIR/checkpoints/step-000020/   model (or adapter) and tokenizer in the transformers format, state.json,
                                       optimizer.pt, or optimizer/ in shards where the run was sharded;
                                       with a critic critic.pt, or critic/, of its weights and optimizer
    RUN_DIR/best/, RUN_DIR/policy/     the policy with the best validation score (and best.json), the final policy
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from algorithms.common.base.files import flush_to_disk
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.lora import load_adapter
from algorithms.common.model.policy import Policy
from algorithms.common.training.learner import Learner
from igsearch_env.errors import IGSearchError

FORMAT = 2
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class CheckpointError(IGSearchError, ValueError):
    """A checkpoint can't be written or loaded; the message gives the reason and what to do."""


def save_checkpoint(
    folder: Path,
    policy: Policy,
    learner: Learner,
    critic: Learner | None,
    step: int,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `folder`/step-<step> and delete all but the latest `keep`. Every process must call it."""
    processes = learner.processes
    shapes = {name: list(p.shape) for name, p in policy.model.named_parameters()}
    header = {"format": FORMAT, "step": step, "shapes": shapes, **state}

    def write_state(partial: Path) -> None:
        if processes.is_main:
            (partial / "state.json").write_text(json.dumps(header))

    parts: list[Callable[[Path], None]] = [
        lambda partial: save_policy(partial, policy, learner),
        lambda partial: learner.save(partial, "optimizer", weights=False),
    ]
    if critic is not None:
        parts.append(lambda partial: critic.save(partial, "critic", weights=True))
    target = folder / f"step-{step:06d}"
    _whole_or_not(target, [*parts, write_state], processes, f"the last good checkpoint in {folder} is intact")
    if processes.is_main:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return target


def save_policy(folder: Path, policy: Policy, learner: Learner) -> None:
    """Write the policy into an existing folder. Every process must call it."""
    weights: dict[str, Any] | None = None
    if learner.sharded:
        weights = get_model_state_dict(policy.adapter or policy.model, options=_WHOLE)
    if learner.processes.is_main:
        policy.save(folder, weights)


def write_policy(target: Path, policy: Policy, learner: Learner, about: dict[str, Any] | None = None) -> None:
    """Write the policy to the folder `target`, with `about` in <name of target>.json. Every process must call it."""

    def write(partial: Path) -> None:
        save_policy(partial, policy, learner)
        if about is not None and learner.processes.is_main:
            (partial / f"{target.name}.json").write_text(json.dumps(about))

    _whole_or_not(target, [write], learner.processes, f"the previous {target} is intact")


def _whole_or_not(target: Path, parts: Sequence[Callable[[Path], None]], processes: Processes, intact: str) -> None:
    """Let `parts` fill a temporary folder, then rename it to `target`; a full disk leaves the previous `target`.

    After each part the processes exchange whether they have written it: if one has failed, the others must not wait
    for it in the collective operations of the next part.
    """
    partial = target.with_name(f".partial-{target.name}")

    def begin(partial: Path) -> None:
        if processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def to_disk(partial: Path) -> None:
        if processes.is_main:
            for written in (*partial.rglob("*"), partial):
                flush_to_disk(written)

    failures: list[str] = []
    for write in (begin, *parts, to_disk):
        failure = None
        try:
            write(partial)
        # torch and safetensors raise different errors when a disk is full; that of sharded saves is no Exception.
        except (Exception, CheckpointException) as error:
            cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
            if not _is_disk_error(cause, target.parent):
                raise
            failure = f"{type(cause).__name__}: {cause}"
        failures = [f for f in processes.gather(failure) if f]
        if failures:
            break
    if failures:
        needed = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        free = shutil.disk_usage(next(folder for folder in target.parents if folder.exists())).free
        processes.barrier()
        if processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{target}: not written ({failures[0].splitlines()[0]}); {free / 1e9:.2f} GB are free, "
            f"{needed / 1e9:.2f} GB had been written. Free disk space (--save-total-limit 1 keeps fewer checkpoints) "
            f"and run the same command again: {intact}"
        )
    if processes.is_main:
        old = target.with_name(f".old-{target.name}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
        flush_to_disk(target.parent)  # before anything older is deleted
        shutil.rmtree(old, ignore_errors=True)
    processes.barrier()


def _is_disk_error(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None)
    text = str(error).lower()
    written = any(
        word in text for word in ("no space", "file write failed", "i/o error", "pytorchstreamwriter", "quota")
    )
    return written or "SafetensorError" in type(error).__name__ or shutil.disk_usage(folder).free < 2**20


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/state.json"))


def load_weights(path: Path, policy: Policy) -> int:
    """Restore the weights of a policy that is not sharded yet; returns the number of steps done."""
    state = json.loads((path / "state.json").read_text())
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {state['format']}, this version reads {FORMAT}; start a new run")
    shapes = {name: list(p.shape) for name, p in policy.model.named_parameters()}
    if shapes != state["shapes"]:
        differing = next(
            name for name in sorted({*shapes, *state["shapes"]}) if shapes.get(name) != state["shapes"].get(name)
        )
        raise CheckpointError(
            f"{path}: the checkpoint is of another model ({differing} has shape {state['shapes'].get(differing)}, "
            f"{shapes.get(differing)} in policy.path); give the policy of the checkpoint, or another run_dir"
        )
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights.update(load_file(file))
    if policy.adapter is not None:
        unexpected = load_adapter(policy.adapter, weights)
        missing: set[str] = set()
    else:
        absent, unexpected = policy.model.load_state_dict(weights, strict=False)
        tied = getattr(policy.model, "all_tied_weights_keys", None) or getattr(policy.model, "_tied_weights_keys", [])
        missing = set(absent) - set(tied)
    if unexpected or missing:
        raise CheckpointError(f"{path}: missing weights {sorted(missing)}, unexpected {unexpected}; start a new run")
    return int(state["step"])


def load_optimizers(path: Path, learner: Learner, critic: Learner | None) -> None:
    """Restore the state of the optimizer, and the critic with its optimizer."""
    loaded = learner.load(path, "optimizer", weights=False)
    if not (loaded and (critic is None or critic.load(path, "critic", weights=True))):
        name = "critic" if loaded else "optimizer"
        raise CheckpointError(f"{path}: it has no {name}, which this algorithm needs; start a new run")
