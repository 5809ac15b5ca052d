"""The folder of a run: created, or rejected if it holds another run; discarded only if it is recognisably a run."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from rich.console import Console
from rich.markup import escape

from algorithms.common.base.errors import CheckpointError
from algorithms.common.base.files import atomic_write
from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig, as_dict, with_present_names
from algorithms.common.evaluation.results import read_tests
from algorithms.common.rollout.config import BUILTIN
from algorithms.common.run.metrics_log import scan_metrics
from igsearch_env.errors import ConfigurationError
from retrievers.credentials import without_credentials
from retrievers.lock import LOCK, OWNER, LockedError, ProcessLock
from retrievers.reading import FileError, read_yaml

CONFIG = "config.yaml"
WARM_START = "warm_start.yaml"  # in the folder of a warm start, which is no run
_REPAIR = "give another --run-dir, or --overwrite to discard it"
# What runs did before they had an option, so did not save. Options of `RESUMABLE` need no entry.
EARLIER = {"test_limit": 0, "env.system_prompt": "", "rollout.max_staleness": 0, "loss.importance_sampling": "token"}
_CAP, _WITHOUT_CAP = "loss.importance_sampling_cap", "--loss.importance-sampling-cap None"  # its default was None
# Everything that a run writes to its folder, and files that the scripts around a run add.
_FILES = re.compile(
    r"config\.yaml|metrics\.jsonl|test_(before|after)\.json|tracker_id(_mlflow)?|learning_curve\.png|command\.json"
    rf"|(report|trajectories|training|searches)\.html|{re.escape(LOCK)}|{re.escape(OWNER)}|\.(partial|time)-[\w.-]+|owner\.json\.\d+\.partial"
)
_FOLDERS = re.compile(
    r"tensorboard|transcripts|trajectories|checkpoints|best|policy|wandb|swanlog|\.(partial|old)-(best|policy)"
)
_CHECKPOINTS = re.compile(r"(damaged-|\.partial-|\.old-)?step-\d{6,}")


def lock_folder(folder: Path, console: Console) -> ProcessLock | None:
    """Lock the folder of a run, which is created if necessary; None if there is a file in its place.

    Raises `CheckpointError` if another process has the lock, or the folder can't be written to.
    """
    if folder.exists() and not folder.is_dir():
        return None  # `check_folder` refuses it
    try:
        lock = ProcessLock(folder)
    except LockedError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"run_dir={str(folder)!r} can't be written to ({error.strerror})") from error
    if lock.notice:
        console.print(f"[yellow]{escape(lock.notice)}[/yellow]", soft_wrap=True)
    return lock


def check_folder(folder: Path, algorithm: str, config: TrainConfig) -> None:
    """Check what a folder holds before anything is loaded or written.

    Raises `CheckpointError` if it holds a run with other settings or, with `config.overwrite`, anything that is not a
    run; `ConfigurationError` or `FileError` for a damaged file of a run that would be resumed.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give another --run-dir")
    if (folder / WARM_START).exists():
        raise CheckpointError(f"{folder} holds a warm start, not a run; give another --run-dir")
    if config.overwrite:
        check_discardable(folder)
        return
    path = folder / CONFIG
    if not path.exists():
        return
    before = {**EARLIER, **_saved(path)}
    after = flat({"algorithm": algorithm, **as_dict(config)})
    may_change = resumable_settings(type(config))
    if config.optimizer.lr_scheduler_type != "constant":
        may_change.remove("steps")  # a decaying schedule depends on it
    for key in after:
        if key in may_change or without_credentials(after[key]) == without_credentials(before.get(key)):
            continue
        uncapped = key == _CAP and before.get(key) is None
        if uncapped and _samples_exactly(config):
            continue  # there are no importance weights
        keep = f"give {_WITHOUT_CAP} to resume it, " if uncapped else ""
        raise CheckpointError(
            f"{folder} holds a run with {key}={before.get(key)!r}, this command has {after[key]!r}; {keep}{_REPAIR}"
        )
    scan_metrics(folder / "metrics.jsonl")
    try:
        read_tests(folder)  # which are needed at the end
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, restore it, or delete it to do without it") from error


def _samples_exactly(config: TrainConfig) -> bool:
    """Whether `Sampler.exact` will hold, as far as the configuration alone says; at times False where it will."""
    rollout, policy = config.rollout, config.policy
    copies = rollout.dtype is not None or rollout.max_staleness > 0 or config.distributed.sharding != "none"
    precise = policy.dtype == "float32" and policy.compute_dtype in (None, "float32")
    return rollout.engine == BUILTIN and precise and not copies


def with_saved_threads(folder: Path, config: TrainConfig) -> tuple[TrainConfig, bool]:
    """`config` with the number of threads of the run in `folder`, unless it names one; and whether there is a run.

    Raises `CheckpointError` if the settings of that run are damaged.
    """
    path = folder / CONFIG
    if config.overwrite or not path.is_file():
        return config, False
    threads = _saved(path).get("threads")
    if config.threads is None and isinstance(threads, int):
        config = dataclasses.replace(config, threads=threads)
    return config, True


def _saved(path: Path) -> dict[str, Any]:
    """The flat settings of a config.yaml."""
    try:
        content = read_yaml(path)
    except FileError as error:
        raise CheckpointError(f"{error}; restore it, or {_REPAIR}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it holds no settings; restore it, or {_REPAIR}")
    # The saved name takes precedence: a user-defined algorithm may use an old name of ours for its own option.
    return {**flat(with_present_names(content)), **flat(content)}


def begin_folder(folder: Path, algorithm: str, config: TrainConfig) -> None:
    """Write config.yaml, after discarding the run in the folder if `config.overwrite`.

    To be called when everything else of the configuration is known to be valid.
    """
    if config.overwrite:
        discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # `overwrite` holds for one command only.
    now = {"algorithm": algorithm, **as_dict(dataclasses.replace(config, overwrite=False))}
    with atomic_write(folder / CONFIG, durable=True) as partial:
        partial.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")


def check_discardable(folder: Path) -> None:
    """Raise `CheckpointError` unless a folder is a run, and nothing else, or holds nothing."""
    if not folder.is_dir():
        return
    found = [path for path in folder.iterdir() if path.name not in (LOCK, OWNER)]
    if not found:
        return
    where = f"overwrite: {folder} is not deleted, because"
    elsewhere = "give another --run-dir, or delete it yourself"
    if not any((folder / name).is_file() for name in (CONFIG, "metrics.jsonl")):
        raise CheckpointError(f"{where} it is not a run (it has no {CONFIG} and no metrics.jsonl); {elsewhere}")
    try:
        settings = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else None
    except FileError:
        settings = None  # damaged: the names of the files decide
    if isinstance(settings, dict) and not {"algorithm", "steps", "seed"} <= settings.keys():
        raise CheckpointError(f"{where} its {CONFIG} is not that of a run; {elsewhere}")
    inside = [*(folder / "checkpoints").iterdir()] if (folder / "checkpoints").is_dir() else []
    unknown = [path for path in found if path.is_symlink() or not _known(path)]
    unknown += [path for path in inside if path.is_symlink() or not _CHECKPOINTS.fullmatch(path.name)]
    if unknown:
        first = min(unknown).relative_to(folder)
        raise CheckpointError(f"{where} it holds {str(first)!r}, which no run writes; move that away, or {elsewhere}")


def _known(path: Path) -> bool:
    return bool((_FOLDERS if path.is_dir() else _FILES).fullmatch(path.name))


def discard(folder: Path) -> None:
    """Delete the run in a folder; the lock stays. Raises as `check_discardable`."""
    check_discardable(folder)
    if not folder.is_dir():
        return
    last = folder / CONFIG  # by which it is recognised, should this be interrupted
    for path in sorted(folder.iterdir(), key=lambda path: path == last):
        if path.name in (LOCK, OWNER):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def resumable_settings(section: type[Any], prefix: str = "") -> set[str]:
    """Dotted names of the options that may change when a run is resumed (`RESUMABLE` of each section)."""
    found = {prefix + name for name in getattr(section, "RESUMABLE", ())}
    hints = get_type_hints(section)
    for name in (field.name for field in dataclasses.fields(section)):
        if dataclasses.is_dataclass(hints[name]):
            found |= resumable_settings(hints[name], f"{prefix}{name}.")
    return found
