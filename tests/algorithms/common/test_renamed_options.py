"""Options of earlier versions: refused with their new names, understood in run folders and records; resuming."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import refusal
from paths import ROOT

from algorithms.common.base.command_line import option_types
from algorithms.common.base.flat import flat
from algorithms.common.config import (
    RENAMED,
    TrainConfig,
    as_dict,
    command_with_present_names,
    parse_config,
    with_present_names,
)
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.common.run.folder import begin_folder, check_folder, resumable_settings
from algorithms.common.run.saved_run import read_run
from algorithms.common.training.config import LossConfig
from algorithms.grpo import GRPOConfig
from algorithms.ig_grpo import IGGRPOConfig
from algorithms.ppo import PPOConfig
from igsearch_env.errors import ConfigurationError

OLD = [(GRPOConfig, old, new) for old, new in RENAMED.items() if old not in ("lam", "baseline")]
OLD += [(PPOConfig, "lam", "gae_lambda"), (IGGRPOConfig, "baseline", "gain_baseline")]


def write(folder: Path, content: dict[str, Any]) -> str:
    """A YAML file with these keys; its name."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("config_class", "old", "new"), OLD)
def test_a_renamed_option_is_refused_with_its_new_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config_class: type[TrainConfig], old: str, new: str
) -> None:
    options = option_types(config_class)
    assert new in options
    assert old not in options
    old_option, new_option = (f"--{name.replace('_', '-')}" for name in (old, new))
    for words in ([old_option, "1"], [f"{old_option}=1"], [f"--{old}", "1"]):
        assert refusal(capsys, config_class, *words) == f"error: {old_option} was renamed: use {new_option}"
    content: Any = 1
    for part in reversed(old.split(".")):
        content = {part: content}
    with pytest.raises(ConfigurationError, match=rf"run\.yaml: key '{old}' was renamed: use '{new}'$"):
        parse_config(config_class, ["--config", write(tmp_path, content)])


def test_a_command_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = write(tmp_path, {"lam": 0.9})
    for options in (["--config", file], ["--loss.kl-coefficient", "0.1"]):
        done = subprocess.run(
            [sys.executable, "algorithms/ppo.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def old_settings(config: TrainConfig) -> dict[str, Any]:
    """What an earlier version would have saved of a configuration."""
    old_names = {new: old for old, new in RENAMED.items()}
    settings: dict[str, Any] = {}
    for key, value in flat(as_dict(config)).items():
        *sections, name = old_names.get(key, key).split(".")
        section = settings
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return settings


@pytest.mark.parametrize(
    "config",
    [
        PPOConfig(gae_lambda=0.9, loss=LossConfig(kl_coef=0.1, clip_ratio_high=0.3), report_to=("wandb",)),
        IGGRPOConfig(gain_baseline="siblings", rollout=RolloutConfig(questions_per_step=4)),
    ],
)
def test_a_run_of_an_earlier_version_is_resumed_and_read(tmp_path: Path, config: TrainConfig) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    saved = {"algorithm": "mine", **old_settings(config)}
    assert set(RENAMED) & flat(saved).keys()
    (folder / "config.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
    now = {"algorithm": "mine", **as_dict(config)}
    assert with_present_names(saved) == now
    assert read_run(folder).config == now

    changed = dataclasses.replace(config, loss=dataclasses.replace(config.loss, kl_coef=0.2))
    with pytest.raises(CheckpointError, match=r"holds a run with loss\.kl_coef=0\.\d, this command has 0\.2"):
        check_folder(folder, "mine", changed)
    more = dataclasses.replace(config, save_total_limit=7)  # it changes no number
    check_folder(folder, "mine", more)
    begin_folder(folder, "mine", more)
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {**now, "save_total_limit": 7}


# Options of runs that were begun before importance weights were on by default, and what today's commands change.
EXACT: list[dict[str, Any]] = [{}]
INEXACT: list[dict[str, Any]] = [
    {"rollout": RolloutConfig(dtype="bfloat16")},
    {"rollout": RolloutConfig(engine="transformers")},
    {"policy": PolicyConfig(dtype="bfloat16")},
    {"policy": PolicyConfig(compute_dtype="bfloat16")},
    {"distributed": DistributedConfig(sharding="fsdp2")},
]


def begun_before_importance_weights(folder: Path, config: TrainConfig) -> None:
    """A run without the options that came with them; the cap was off."""
    saved = {"algorithm": "mine", **as_dict(config)}
    for name in ("max_staleness", "asynchronous"):
        del saved["rollout"][name]
    del saved["loss"]["importance_sampling"]
    saved["loss"]["importance_sampling_cap"] = None
    (folder / "config.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")


@pytest.mark.parametrize(
    "sections", [*EXACT, *INEXACT], ids=["exact", "copy", "engine", "weights", "autocast", "sharded"]
)
def test_a_run_from_before_importance_weights_is_resumed_without_them(tmp_path: Path, sections: dict[str, Any]) -> None:
    config = GRPOConfig(**sections)
    begun_before_importance_weights(tmp_path, config)
    if sections in EXACT:
        check_folder(tmp_path, "mine", config)
    else:
        repair = r"this command has 2\.0; give --loss\.importance-sampling-cap None to resume it, "
        with pytest.raises(CheckpointError, match=repair):
            check_folder(tmp_path, "mine", config)
    off = parse_config(GRPOConfig, ["--loss.importance-sampling-cap", "None"]).loss
    check_folder(tmp_path, "mine", dataclasses.replace(config, loss=off))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rollout": RolloutConfig(max_staleness=1)}, r"rollout\.max_staleness=0, this command has 1"),
        (
            {"loss": LossConfig(importance_sampling="sequence")},
            r"importance_sampling='token', this command has 'sequence'",
        ),
        ({"loss": LossConfig(importance_sampling_cap=3.0)}, None),  # nothing is weighted in any case
    ],
    ids=["staleness", "sequence", "cap"],
)
def test_what_an_option_adds_changes_no_earlier_run(
    tmp_path: Path, sections: dict[str, Any], message: str | None
) -> None:
    begun_before_importance_weights(tmp_path, GRPOConfig())
    if message is None:
        check_folder(tmp_path, "mine", GRPOConfig(**sections))
        return
    with pytest.raises(CheckpointError, match=message):
        check_folder(tmp_path, "mine", GRPOConfig(**sections))


@dataclasses.dataclass(frozen=True)
class OwnConfig(TrainConfig):
    """An algorithm of a user, with an option named as one of ours was."""

    baseline: float = 1.0


def test_an_option_of_ones_own_may_have_an_old_name(tmp_path: Path) -> None:
    assert parse_config(OwnConfig, ["--baseline", "2"]).baseline == 2.0
    begin_folder(tmp_path, "own", OwnConfig(baseline=2.0))
    check_folder(tmp_path, "own", OwnConfig(baseline=2.0))
    with pytest.raises(CheckpointError, match=r"holds a run with baseline=2\.0, this command has 3\.0"):
        check_folder(tmp_path, "own", OwnConfig(baseline=3.0))


def test_commands_of_earlier_versions_are_read_in_todays_words() -> None:
    old = "algorithms/mr_search.py --rollout.questions 5 --loss.kl-coefficient=0.1 --group-baseline True --chat False"
    new = "algorithms/mr_search.py --rollout.questions-per-step 5 --loss.kl-coef=0.1 --group-baseline --no-chat"
    assert command_with_present_names(old.split()) == new.split()
    assert command_with_present_names(new.split()) == new.split()


def test_sections_declare_what_a_run_may_be_resumed_with() -> None:
    assert resumable_settings(PPOConfig) == {
        *("steps", "run_dir", "overwrite", "config", "preset", "eval_every", "eval_limit", "save_every"),
        *("skip_initial_evaluation", "tracked_questions", "estimate_time"),
        *("report_to", "project", "policy.device", "policy.attn_implementation", "policy.gradient_checkpointing"),
        *("optimizer.token_budget", "rollout.token_budget", "rollout.kv_cache_tokens", "rollout.server_url"),
        *("save_total_limit", "rollout.gpu_memory_utilization", "env.max_failure_rate", "warm_start.save_every"),
        *("distributed.sharding", "distributed.timeout_minutes", "rollout.asynchronous"),
    }
    assert resumable_settings(PPOConfig) <= option_types(PPOConfig).keys()
