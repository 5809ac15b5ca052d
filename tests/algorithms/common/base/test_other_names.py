"""Option names of other trainers are answered with the name here."""

from __future__ import annotations

from typing import Any

import pytest
from command_lines import refusal

from algorithms.common.base.command_line import option_types
from algorithms.common.base.other_names import OTHER_NAMES, name_here
from algorithms.common.config import TrainConfig
from algorithms.ig_grpo import IGGRPOConfig
from algorithms.ppo import PPOConfig
from igsearch.commands import evaluate, export


@pytest.mark.parametrize(
    ("config_class", "written", "here"),
    [
        (IGGRPOConfig, "--model", "--policy.path"),
        (IGGRPOConfig, "--model_name_or_path=Qwen/Qwen2.5-3B", "--policy.path"),
        (TrainConfig, "--policy", "--policy.path"),
        (evaluate.Args, "--model", "--policy"),
        (IGGRPOConfig, "--learning-rate", "--optimizer.lr"),
        (IGGRPOConfig, "--lr", "--optimizer.lr"),
        (IGGRPOConfig, "--num_generations", "--rollout.group-size"),
        (IGGRPOConfig, "--group-size", "--rollout.group-size"),
        (IGGRPOConfig, "--temperature", "--rollout.temperature"),
        (IGGRPOConfig, "--max_completion_length", "--rollout.max-new-tokens"),
        (IGGRPOConfig, "--max-steps", "--steps"),
        (IGGRPOConfig, "--beta", "--loss.kl-coef"),
        (IGGRPOConfig, "--corpus", "--env.corpus"),
        (IGGRPOConfig, "--actor_rollout_ref.model.path", "--policy.path"),
        (export.Args, "--output-dir", "--output"),
    ],
)
def test_the_name_of_another_trainer_is_answered_with_the_name_here(
    capsys: pytest.CaptureFixture[str], config_class: type[Any], written: str, here: str
) -> None:
    name = written.partition("=")[0].replace("_", "-")
    assert refusal(capsys, config_class, written, "1") == f"error: {name}: no such option; did you mean {here}?"


@pytest.mark.parametrize(
    ("word", "here"),
    [
        ("policy.path=Qwen/Qwen2.5-3B", "--policy.path"),
        ("actor_rollout_ref.rollout.n=5", "--rollout.group-size"),
        ("data.train_files=nq.parquet", "--env.questions"),
    ],
)
def test_options_in_the_notation_of_hydra_are_refused(capsys: pytest.CaptureFixture[str], word: str, here: str) -> None:
    line = refusal(capsys, IGGRPOConfig, "--steps", "3", word)
    assert line == f"error: {word}: an option begins with two dashes: {here} {word.partition('=')[2]}"


def test_every_name_leads_to_an_option() -> None:
    known = {*option_types(PPOConfig), *option_types(IGGRPOConfig), *option_types(evaluate.Args)}
    for name, options in OTHER_NAMES.items():
        assert known.issuperset(options), name
        assert name_here(name, {*options}) in {None, *options}


def test_what_several_options_end_in_is_not_guessed() -> None:
    assert name_here("dtype", ["policy.dtype", "rollout.dtype"]) is None
    assert name_here("steps", ["steps"]) is None
