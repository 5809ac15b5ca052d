"""A policy that a run left behind, and what the run says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from algorithms.common.evaluation.results import Result, read_tests
from algorithms.common.model.lora import ADAPTER_FILE
from algorithms.common.run.checkpoint import checkpoints
from igsearch_env.errors import ConfigurationError


@dataclass(frozen=True)
class TrainedPolicy:
    """One policy of a run."""

    run: Path
    settings: Mapping[str, Any]
    """config.yaml of the run."""
    folder: Path
    """Where weights and tokenizer are, inside the run."""
    step: int | None
    """Of training, where the run says it."""
    adapter: Mapping[str, Any] | None
    """adapter_config.json, where an adapter was trained."""
    before: Result | None
    after: Result | None
    """The tests of the run, where they were made."""


def find_policy(run: Path, checkpoint: str) -> TrainedPolicy:
    """A policy of the folder `run`: final, best, last, or a checkpoint by name (step-000020).

    Raises `ConfigurationError` if the folder is no run's, holds no such policy, or has a damaged file.
    """
    settings = _read_settings(run)
    saved = checkpoints(run / "checkpoints")
    found = {"final": run / "policy", "best": run / "best", **({"last": saved[-1]} if saved else {})}
    found |= {folder.name: folder for folder in saved}
    found = {name: folder for name, folder in found.items() if _holds_policy(folder)}
    if checkpoint not in found:
        if not found:
            repair = "it has no policy yet: one is there from its first checkpoint on (save_every)"
        elif checkpoint == "final":
            repair = f"it has not finished: run it to its end, or export one of its checkpoints ({', '.join(found)})"
        else:
            repair = f"it has {', '.join(found)}"
        raise ConfigurationError(f"checkpoint={checkpoint!r}: {run} has no such policy; {repair}")
    folder = found[checkpoint]
    before, after = read_tests(run)
    step: int | None
    if checkpoint == "final":
        step = None if after is None else after.header.get("step")
    elif checkpoint == "best":
        step = (read_json(folder / "best.json") or {}).get("step")
    else:
        step = int(folder.name.removeprefix("step-"))
    return TrainedPolicy(run, settings, folder, step, read_json(folder / ADAPTER_FILE), before, after)


def read_json(path: Path) -> dict[str, Any] | None:
    """An object in a file, if the file is there."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{path}: damaged ({error}); restore it, or export another checkpoint") from error
    return content


def _read_settings(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        inside = next((parent for parent in run.absolute().parents if (parent / "config.yaml").is_file()), None)
        repair = f"it is inside one: give {inside}" if inside else "give the folder that a training command named"
        raise ConfigurationError(f"{run}: not the folder of a run (no config.yaml in it); {repair}")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML ({error}); restore the file") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: a {type(settings).__name__}; it must hold the run's settings, restore it")
    return settings


def _holds_policy(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", ADAPTER_FILE))
