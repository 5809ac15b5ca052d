"""The folder of a run: created, or rejected if it holds another run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig, as_dict, with_present_names
from algorithms.common.run.checkpoint import CheckpointError
from retrievers.credentials import without_credentials


def open_folder(folder: Path, algorithm: str, config: TrainConfig) -> None:
    """Create the folder and its config.yaml. Raises `CheckpointError` if it holds a run with other settings."""
    if config.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    now = {"algorithm": algorithm, **as_dict(config)}
    if path.is_file():
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        # The saved name takes precedence: a user-defined algorithm may use an old name of ours for its own option.
        before, after = {**flat(with_present_names(saved)), **flat(saved)}, flat(now)
        may_change = resumable_settings(type(config))
        if config.optimizer.lr_scheduler_type != "constant":
            may_change.remove("steps")  # a decaying schedule depends on it
        for key in after:
            if key in may_change or without_credentials(after[key]) == without_credentials(before.get(key)):
                continue
            raise CheckpointError(
                f"{folder} holds a run with {key}={before.get(key)!r}, this command has {after[key]!r}; "
                "give another --run-dir, or --overwrite to discard it"
            )
    path.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")


def resumable_settings(section: type[Any], prefix: str = "") -> set[str]:
    """Dotted names of the options that may change when a run is resumed (`RESUMABLE` of each section)."""
    found = {prefix + name for name in getattr(section, "RESUMABLE", ())}
    hints = get_type_hints(section)
    for name in (field.name for field in dataclasses.fields(section)):
        if dataclasses.is_dataclass(hints[name]):
            found |= resumable_settings(hints[name], f"{prefix}{name}.")
    return found
