"""A policy saved by a run, with the settings and test results of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.common.evaluation.results import Result, read_tests
from algorithms.common.model.source import ADAPTER_FILE
from algorithms.common.run.layout import checkpoints
from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError, read_json_object, read_yaml


@dataclass(frozen=True)
class TrainedPolicy:
    """A saved policy of a run."""

    run: Path
    settings: Mapping[str, Any]
    """config.yaml of the run."""
    folder: Path
    """Folder inside the run with weights and tokenizer."""
    step: int | None
    """Training step, if known."""
    adapter: Mapping[str, Any] | None
    """adapter_config.json, if an adapter was trained."""
    before: Result | None
    after: Result | None
    """Test results before and after training, if any."""


def find_policy(run: Path, checkpoint: str) -> TrainedPolicy:
    """Find a policy in the folder `run`: final, best, last, or a checkpoint by name (step-000020).

    Raises `ConfigurationError` if the folder is not a run, has no such policy, or has a damaged file.
    """
    settings = _read_settings(run)
    saved = checkpoints(run / "checkpoints")
    found = {"final": run / "policy", "best": run / "best", **({"last": saved[-1]} if saved else {})}
    found |= {folder.name: folder for folder in saved}
    found = {name: folder for name, folder in found.items() if _holds_policy(folder)}
    if checkpoint not in found:
        if not found:
            repair = "it has no policy yet: wait for its first checkpoint (save_every)"
        elif checkpoint == "final":
            repair = f"it has not finished: finish the run, or export one of its checkpoints ({', '.join(found)})"
        else:
            repair = f"choose one of {', '.join(found)}"
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
    """The JSON object in a file; None if the file does not exist."""
    if not path.is_file():
        return None
    try:
        return read_json_object(path)
    except FileError as error:
        raise ConfigurationError(
            f"{path}: damaged ({error.inside(path)}); restore it, or export another checkpoint"
        ) from error


def _read_settings(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        inside = next((parent for parent in run.absolute().parents if (parent / "config.yaml").is_file()), None)
        repair = f"it is inside a run: give {inside}" if inside else "give the --run-dir of a training command"
        raise ConfigurationError(f"{run}: not the folder of a run (it has no config.yaml); {repair}")
    try:
        settings = read_yaml(path)
    except FileError as error:
        raise ConfigurationError(f"{error}; restore the file") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: a {type(settings).__name__}; it must hold the run's settings, restore it")
    return settings


def _holds_policy(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", ADAPTER_FILE))
