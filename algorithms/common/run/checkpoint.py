"""Checkpoints: everything that a run needs to resume and reproduce the uninterrupted result, written atomically.

Every random draw of a run is derived from (seed, step), so a checkpoint holds weights, optimizer state and the step.
It does not depend on the number of processes: any number of them, sharded or not, may resume. It holds JSON and
safetensors only, so that nothing in it can run code.

    RUN_DIR/checkpoints/step-000020/   model (or adapter) and tokenizer in the transformers format,
                                       optimizer/, and with a critic critic/ (weights and optimizer), in a file per
                                       process (`distributed/tensor_files.py`),
                                       state.json: the step, the shapes, size and hash of every other file
    RUN_DIR/best/, RUN_DIR/policy/     the policy with the best validation score (and best.json), the final policy
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from algorithms.common.base.errors import CheckpointError, CheckpointWriteError
from algorithms.common.base.files import flush_to_disk
from algorithms.common.distributed.processes import Processes
from algorithms.common.distributed.tensor_files import INDEX, TensorFileError
from algorithms.common.model.lora import load_adapter
from algorithms.common.model.policy import Policy
from algorithms.common.model.saved import load_saved_weights, verify_saved
from algorithms.common.run.layout import STATE, checkpoints, step_folders
from algorithms.common.training.learner import Learner
from igsearch_env.errors import ConfigurationError
from retrievers.digests import check_files, folder_digest
from retrievers.reading import FileError, one_line, read_json_object

FORMAT = 3
OPTIMIZER, CRITIC = "optimizer", "critic"
DAMAGED = "damaged-"  # prefix of the new name of a damaged checkpoint
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


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
            files = folder_digest(partial, (file for file in partial.rglob("*") if file.is_file()))
            (partial / STATE).write_text(json.dumps({**header, "files": files}), encoding="utf-8")

    parts: list[Callable[[Path], None]] = [
        lambda partial: save_policy(partial, policy, learner),
        lambda partial: learner.save(partial / OPTIMIZER, weights=False),
    ]
    if critic is not None:
        parts.append(lambda partial: critic.save(partial / CRITIC, weights=True))
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
        if not policy.saving_verified:  # once per run: it loads a second copy of the weights
            verify_saved(folder, policy, weights)
            policy.saving_verified = True


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
        except Exception as error:  # safetensors and tokenizers raise errors of their own when a disk is full
            if not _is_disk_error(error, target.parent):
                raise
            failure = f"{type(error).__name__}: {error}"
        failures = [f for f in processes.gather(failure) if f]
        if failures:
            break
    if failures:
        needed = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        free = shutil.disk_usage(next(folder for folder in target.parents if folder.exists())).free
        processes.barrier()
        if processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointWriteError(
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
    written = any(word in text for word in ("no space", "file write failed", "i/o error", "quota"))
    return written or isinstance(error, SafetensorError) or shutil.disk_usage(folder).free < 2**20


def latest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """The latest checkpoint whose files are all as they were written, None if there is none; and what to tell.

    Reads every byte of it. Damaged checkpoints after it are renamed, so that they are not taken for the latest ones.
    Raises `CheckpointError` if all of them are damaged, or one is of another version.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: a file where the folder of the checkpoints belongs; move it away")
    damaged: list[tuple[Path, str]] = []
    for path in reversed(step_folders(folder)):
        problem = _damage(path)
        if not problem:
            for broken, _ in damaged:
                aside = broken.with_name(DAMAGED + broken.name)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(broken, aside)
            return path, [
                f"{broken.name} is damaged ({why}): renamed to {DAMAGED}{broken.name}" for broken, why in damaged
            ]
        damaged.append((path, problem))
    if damaged:
        raise CheckpointError(
            f"{damaged[0][0]} is damaged ({damaged[0][1]}), and there is no intact checkpoint in {folder}; restore it, "
            "or give --overwrite to start over, or another --run-dir"
        )
    return None, []


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint; "" if nothing is. Raises `CheckpointError` for another version."""
    try:
        return check_files(path, read_state(path)["files"], whole=True)
    except FileError as error:
        return str(error)


def read_state(path: Path) -> dict[str, Any]:
    """The state.json of a checkpoint. Raises `FileError` if it is damaged, `CheckpointError` for another version."""
    state = read_json_object(path / STATE)
    if isinstance(state.get("format"), int) and state["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {state['format']}, this version reads {FORMAT}; resume it with the version that wrote it, "
            "or start a new run"
        )
    types = {"format": int, "step": int, "shapes": dict, "files": dict}
    for key, kind in types.items():
        if not isinstance(state.get(key), kind):
            raise FileError(path / STATE, f"{key} is {str(state.get(key))[:60]!r}, not a {kind.__name__}")
    if path.name != f"step-{state['step']:06d}":
        raise FileError(path / STATE, f"it is of step {state['step']}")
    return state


def load_weights(path: Path, policy: Policy) -> int:
    """Restore the weights of a policy that is not sharded yet; returns the number of steps done.

    Raises `CheckpointError` for a checkpoint that is damaged or of another model.
    """
    try:
        state = read_state(path)
        shapes = {name: list(p.shape) for name, p in policy.model.named_parameters()}
        if shapes != state["shapes"]:
            differing = next(
                name for name in sorted({*shapes, *state["shapes"]}) if shapes.get(name) != state["shapes"].get(name)
            )
            raise CheckpointError(
                f"{path}: the checkpoint is of another model ({differing} has shape "
                f"{state['shapes'].get(differing)}, {shapes.get(differing)} in policy.path); give the policy of the "
                "checkpoint, or another run_dir"
            )
        if policy.adapter is None:
            load_saved_weights(path, policy)
            return int(state["step"])
        weights: dict[str, torch.Tensor] = {}
        for name in sorted(state["files"]):
            if re.fullmatch(r"[\w.-]+\.safetensors", name):  # those in folders are optimizers
                weights.update(load_file(path / name))
        unexpected = load_adapter(policy.adapter, weights)
    except (FileError, OSError, SafetensorError, RuntimeError, ConfigurationError) as error:
        raise CheckpointError(
            f"{path}: damaged ({one_line(error)}); delete it to resume from the one before it"
        ) from error
    if unexpected:
        raise CheckpointError(f"{path}: unexpected weights {unexpected}; start a new run")
    return int(state["step"])


def load_optimizers(path: Path, learner: Learner, critic: Learner | None) -> None:
    """Restore the state of the optimizer, and the critic with its optimizer, from the folders that state.json names."""
    for name, owner, weights in ((OPTIMIZER, learner, False), (CRITIC, critic, True)):
        if owner is None:
            continue
        try:
            if f"{name}/{INDEX}" not in read_state(path)["files"]:
                raise CheckpointError(f"{path}: it has no {name}, which this algorithm needs; start a new run")
            owner.load(path / name, weights=weights)
        except (FileError, TensorFileError) as error:
            raise CheckpointError(
                f"{path}: damaged ({one_line(error)}); delete it to resume from the one before it"
            ) from error
