"""Checkpoints: everything a run needs to resume as if it had never stopped, each written whole or not at all.

Every draw of a run is derived from (seed, step), so weights, optimizer state and the step are all there is, and none
of it depends on how many processes wrote it: any number of them, sharded or not, may resume.

    RUN_DIR/checkpoints/step-000020/   model (or adapter) and tokenizer in the transformers format, state.json,
                                       optimizer.pt, or optimizer/ in shards where the run was sharded;
                                       with a critic critic.pt, or critic/, of its weights and optimizer
    RUN_DIR/best/, RUN_DIR/policy/     the policy that did best in validation (and best.json), the final one
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
    """A checkpoint that can't be written or resumed; the message says why and what to do."""


def save_checkpoint(
    folder: Path,
    policy: Policy,
    learner: Learner,
    critic: Learner | None,
    step: int,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `folder`/step-<step> and drop all but the latest `keep`. Every process must call it."""
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
    """Write the policy into a folder that is there. Every process must call it."""
    weights: dict[str, Any] | None = None
    if learner.sharded:
        weights = get_model_state_dict(policy.adapter or policy.model, options=_WHOLE)
    if learner.processes.is_main:
        policy.save(folder, weights)


def write_policy(target: Path, policy: Policy, learner: Learner, about: dict[str, Any] | None = None) -> None:
    """Write the policy as the folder `target`, `about` beside it as <name of target>.json. For every process."""

    def write(partial: Path) -> None:
        save_policy(partial, policy, learner)
        if about is not None and learner.processes.is_main:
            (partial / f"{target.name}.json").write_text(json.dumps(about))

    _whole_or_not(target, [write], learner.processes, f"what {target} was before is intact")


def _whole_or_not(target: Path, parts: Sequence[Callable[[Path], None]], processes: Processes, intact: str) -> None:
    """Have `parts` fill a folder beside `target`, then put it in its place; a full disk leaves what was there.

    After each part the processes agree on whether it was written: where one has failed, the others must not wait for
    it in what the next part does together.
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
        # torch and safetensors each have their own way to say that a disk is full; that of shards is no Exception.
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
            f"{needed / 1e9:.2f} GB were written until then. Free some space (--save-total-limit 1 keeps fewer) and "
            f"run the same command again: {intact}"
        )
    if processes.is_main:
        old = target.with_name(f".old-{target.name}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
        flush_to_disk(target.parent)  # before anything older is dropped
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
    if policy.adapter is not None:
        unexpected = load_adapter(policy.adapter, weights)
        missing: set[str] = set()
    else:
        absent, unexpected = policy.model.load_state_dict(weights, strict=False)
        tied = getattr(policy.model, "all_tied_weights_keys", None) or getattr(policy.model, "_tied_weights_keys", [])
        missing = set(absent) - set(tied)
    if unexpected or missing:
        raise CheckpointError(f"{path}: weights missing {sorted(missing)}, unexpected {unexpected}; start again")
    return int(state["step"])


def load_optimizers(path: Path, learner: Learner, critic: Learner | None) -> None:
    """Restore the optimizer, and the critic with its own."""
    loaded = learner.load(path, "optimizer", weights=False)
    if not (loaded and (critic is None or critic.load(path, "critic", weights=True))):
        name = "critic" if loaded else "optimizer"
        raise CheckpointError(f"{path}: no {name} in it, which this algorithm needs; start again")
