"""The folder of a warm start: what it was made with, and whether a command may use it.

FOLDER/warm_start.yaml   the settings          round-0/   the demonstrations     checkpoints/
       metrics.jsonl     one row per update    round-1/   the first own episodes policy/: the result, with README.md
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from algorithms.common.base.files import atomic_write
from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig, as_dict
from algorithms.common.run.folder import WARM_START, resumable_settings
from igsearch_env.errors import ConfigurationError
from retrievers.lock import LOCK, OWNER
from retrievers.reading import FileError, read_yaml

POLICY = "policy"
THREADS = "threads"  # in the settings; a resumed warm start keeps it, as it decides how sums are rounded
# What a warm start depends on: sections, and single options.
SECTIONS = ("policy.", "env.", "warm_start.")
OPTIONS = (
    *("seed", "rollout.max_new_tokens", "rollout.dtype", "rollout.engine"),
    *("optimizer.weight_decay", "optimizer.beta1", "optimizer.beta2", "optimizer.max_grad_norm"),
)
IRRELEVANT = resumable_settings(TrainConfig) | {
    *("warm_start.folder", "env.eval_questions", "env.dev_questions", "env.outcome_reward")
}
# A policy knows one format of episodes.
FORMAT = ("env.protocol", "env.prompt", "env.system_prompt", "policy.chat", "policy.chat_template_arguments")
# Left behind by a process that was killed.
_LEFT_OVER = re.compile(rf"{re.escape(LOCK)}|{re.escape(OWNER)}|\.(partial|time)-[\w.-]+|owner\.json\.\d+\.partial")
_REPAIR = "give another --warm-start.folder, or delete that one"


def is_finished(folder: Path) -> bool:
    """Whether a folder holds the policy of a warm start."""
    return (folder / WARM_START).is_file() and (folder / POLICY).is_dir()


def with_trained_policy(config: TrainConfig) -> TrainConfig:
    """The configuration with `policy.path` set to the policy that its warm start makes; unchanged if it has none."""
    folder = config.warm_start.folder
    return config if folder is None else replace(config, policy=replace(config.policy, path=str(folder / POLICY)))


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What a warm start depends on, by dotted names."""
    found = flat(as_dict(config)).items()
    return {
        name: value
        for name, value in found
        if (name.startswith(SECTIONS) or name in OPTIONS) and name not in IRRELEVANT
    }


def write_settings(folder: Path, config: TrainConfig, threads: int) -> None:
    """Write the settings, by which the folder is known to hold a warm start, and the number of CPU threads."""
    content = {**settings_of(config), THREADS: threads}
    with atomic_write(folder / WARM_START, durable=True) as partial:
        partial.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def saved_threads(folder: Path) -> int | None:
    """The number of CPU threads of the warm start in a folder; None if there is none."""
    if not (folder / WARM_START).is_file():
        return None
    threads = _saved(folder / WARM_START).get(THREADS)
    return threads if type(threads) is int and threads > 0 else None


def check_folder(folder: Path, config: TrainConfig, run_dir: Path | None) -> None:
    """Raise `ConfigurationError` if a command can't make its warm start in a folder, resume it or train from it.

    All settings count until it is finished. A finished one may serve runs with other settings, such as seeds and search
    engines, but not another format of episodes, model or warm start: options that the command leaves at their defaults
    are not compared.
    """
    where = f"warm_start.folder={str(folder)!r}"
    if run_dir is not None and os.path.realpath(run_dir) == os.path.realpath(folder):
        raise ConfigurationError(f"{where} is the folder of the run, too; give another one")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{where} is a file; give a folder")
    if not folder.is_dir():
        return
    if not (folder / WARM_START).is_file():
        other = sorted(path.name for path in folder.iterdir() if not _LEFT_OVER.fullmatch(path.name))
        if other:
            raise ConfigurationError(
                f"{where} holds {other[0]!r} but no {WARM_START}, so it is no warm start; give another folder"
            )
        return
    before, now = {"env.system_prompt": "", **_saved(folder / WARM_START)}, settings_of(config)  # older ones lack it
    names = _asked_for(folder, now) if is_finished(folder) else list(now)
    for name in names:
        if before.get(name) != now[name]:
            raise ConfigurationError(
                f"{folder} holds a warm start with {name}={before.get(name)!r}, this command has {now[name]!r}; "
                f"{_REPAIR}"
            )


def _saved(path: Path) -> dict[str, Any]:
    try:
        before = read_yaml(path)
    except FileError as error:
        raise ConfigurationError(f"{error}; restore it, or {_REPAIR}") from error
    if not isinstance(before, dict):
        raise ConfigurationError(f"{path}: it holds no settings; restore it, or {_REPAIR}")
    return before


def _asked_for(folder: Path, now: dict[str, Any]) -> list[str]:
    """The settings of which a finished warm start must be."""
    defaults = settings_of(TrainConfig())
    own = {"policy.path": str(folder / POLICY)}  # a run's own config.yaml names the result
    given = (n for n in now if n.startswith("warm_start.") or n == "policy.path")
    return [*FORMAT, *(name for name in given if now[name] not in (defaults[name], own.get(name)))]
