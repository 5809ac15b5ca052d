"""Sizes that a configuration file offers under `presets`."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import refusal

from algorithms.common.config import parse_config
from algorithms.ig_grpo import IGGRPOConfig
from igsearch_env.errors import ConfigurationError

FILE = """
preset: small
steps: 100
scale_by_std: true
env:
  questions: [a.jsonl, b.jsonl]
  top_k: 5
policy: {chat: true}
presets:
  small:
    steps: 10
    env: {questions: [c.jsonl]}
  large:
    scale_by_std: false
    policy: {chat: false}
    rollout: {group_size: 16}
  7: {seed: 7}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file with presets."""
    return write(tmp_path, FILE)


def write(folder: Path, text: str) -> str:
    """A file of options."""
    path = folder / "sizes.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def parse(*arguments: str) -> IGGRPOConfig:
    """The configuration of `python algorithms/ig_grpo.py` with these arguments."""
    return parse_config(IGGRPOConfig, arguments)


def test_the_file_chooses_one_itself(file: str) -> None:
    config = parse("--config", file)
    assert config.preset == "small"
    assert (config.steps, config.env.questions, config.env.top_k) == (10, ("c.jsonl",), 5)
    assert (config.scale_by_std, config.policy.chat) == (True, True)


@pytest.mark.parametrize(
    "form", [["--preset", "large"], ["--preset=large"], ["--preset", "small", "--preset", "large"]]
)
def test_the_command_line_chooses_another(file: str, form: list[str]) -> None:
    for arguments in ([*form, "--config", file], ["--config", file, *form]):
        config = parse(*arguments)
        assert config.preset == "large"
        assert (config.steps, config.env.questions) == (100, ("a.jsonl", "b.jsonl"))  # nothing of the other one
        assert (config.scale_by_std, config.policy.chat, config.rollout.group_size) == (False, False, 16)


def test_a_name_may_be_a_number(file: str, tmp_path: Path) -> None:
    assert parse("--config", file, "--preset", "7").seed == 7
    assert parse("--config", write(tmp_path, FILE.replace("preset: small", "preset: 7"))).seed == 7


def test_without_a_choice_none_applies(tmp_path: Path) -> None:
    config = parse("--config", write(tmp_path, FILE.replace("preset: small", "")))
    assert (config.preset, config.steps, config.policy.chat) == ("", 100, True)


def test_the_command_line_overrides_a_preset(file: str) -> None:
    config = parse("--config", file, "--preset", "large", "--rollout.group-size", "3", "--policy.chat", "--steps", "2")
    assert (config.rollout.group_size, config.policy.chat, config.steps) == (3, True, 2)
    assert parse("--env.questions", "d.jsonl", "--config", file).env.questions == ("d.jsonl",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("preset: small", "preset: smal", r"preset='smal': must be one of 'small', 'large', '7'; did you mean 'small'"),
        ("steps: 10\n", "stepz: 10\n", r"sizes\.yaml, preset small: unknown key 'stepz'; did you mean 'steps'"),
        ("group_size", "groupsize", r"sizes\.yaml, preset large: unknown key 'rollout\.groupsize'"),
        ("7: {seed: 7}", "7: {loss: 3}", r"preset 7: 'loss' is 3; it must be a section"),
        ("7: {seed: 7}", "7: {keep_checkpoints: 3}", r"preset 7: key 'keep_checkpoints' was renamed: use 'save_total"),
        ("7: {seed: 7}", "7: {preset: large}", r"preset 7: 'preset' can't stand inside a preset"),
        ("7: {seed: 7}", "7: 3", r"'presets' must hold a section of options for each name"),
    ],
)
def test_mistakes_in_any_preset_name_the_file_and_the_preset(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(ConfigurationError, match=message):
        parse("--config", write(tmp_path, FILE.replace(old, new)))


def test_a_preset_can_not_delete_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path, FILE.replace("    steps: 10\n", "    overwrite: true\n"))
    with pytest.raises(ConfigurationError, match="'overwrite' is true; a file can't ask for a folder to be deleted"):
        parse("--config", path)


@pytest.mark.parametrize("presets", ["presets: [small]", "presets: small", "presets:"])
def test_presets_are_a_section(tmp_path: Path, presets: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sizes\.yaml: 'presets' must hold a section"):
        parse("--config", write(tmp_path, presets))


def test_an_unknown_name_on_the_command_line(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"sizes\.yaml: preset='larg': .*did you mean 'large'"):
        parse("--config", file, "--preset", "larg")
    with pytest.raises(ConfigurationError, match="preset 'large': the file offers none"):
        parse("--config", write(tmp_path, "steps: 3"), "--preset", "large")


def test_a_preset_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="--preset large: presets are part of a configuration file; give its"):
        parse("--preset", "large")
    assert "--presetz" in refusal(capsys, IGGRPOConfig, "--presetz", "large")
