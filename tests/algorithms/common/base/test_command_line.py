"""Command lines of training and of the other scripts: flags, misspelt options, choices, and the help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import tyro
from command_lines import refusal

from algorithms.common.base.command_line import option_types, parse_options
from algorithms.common.config import TrainConfig, parse_config
from algorithms.ig_grpo import IGGRPOConfig
from examples import compare_algorithms
from igsearch.commands import evaluate, export, report
from igsearch_env.errors import ConfigurationError, check_literals
from retrievers import build_index


def parse(*arguments: str) -> IGGRPOConfig:
    """The configuration of `python algorithms/ig_grpo.py` with these arguments."""
    return parse_config(IGGRPOConfig, arguments)


@pytest.mark.parametrize(
    ("config_class", "option", "nearest"),
    [
        (IGGRPOConfig, "--loss.kl-cof", "--loss.kl-coef"),
        (IGGRPOConfig, "--loss.kl_cof=0.1", "--loss.kl-coef"),
        (IGGRPOConfig, "--kl-coef", "--loss.kl-coef"),
        (IGGRPOConfig, "--policy.chatt", "--policy.chat"),
        (IGGRPOConfig, "--no-policy.chatt", "--no-policy.chat"),
        (IGGRPOConfig, "--hlep", "--help"),
        (evaluate.Args, "--cache-tokens", "--kv-cache-tokens"),
        (evaluate.Args, "--questionz", "--questions"),
        (report.Args, "--outpt", "--output"),
    ],
)
def test_a_misspelt_option_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], config_class: type[Any], option: str, nearest: str
) -> None:
    written = option.partition("=")[0].replace("_", "-")
    line = refusal(capsys, config_class, option, "0.1")
    assert line == f"error: {written}: no such option; did you mean {nearest}?"


def test_an_option_unlike_any_other_is_refused_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, TrainConfig, "--xyz") == "error: --xyz: no such option; --help lists all options"


# ---------------------------------------------------------------- flags


def test_booleans_are_flags_both_ways() -> None:
    assert parse("--policy.chat").policy.chat
    assert not parse("--no-policy.chat").policy.chat
    assert not parse("--policy.chat", "--no-policy.chat").policy.chat  # the later one counts
    assert parse("--dynamic-sampling").dynamic_sampling
    assert parse("--scale-by-std", "--query_tags", "--steps", "3").query_tags
    assert not parse("--no-scale-by-std").scale_by_std
    assert not parse("--no-rollout.recompute_logprobs").rollout.recompute_logprobs


@pytest.mark.parametrize(
    ("words", "content", "expected"),
    [
        ([], "{}", None),
        (["--rollout.asynchronous", "--steps", "3"], "{}", True),
        (["--no-rollout.asynchronous"], "{asynchronous: true}", False),
        ([], "{asynchronous: true}", True),
        ([], "{asynchronous: false}", False),
        ([], "{asynchronous: null}", None),
    ],
)
def test_a_flag_may_be_left_open(words: list[str], content: str, expected: bool | None, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"rollout: {content}\n")
    assert parse("--config", str(tmp_path / "c.yaml"), *words).rollout.asynchronous is expected


def test_flags_are_the_same_in_other_scripts() -> None:
    index = tyro.cli(build_index.Args, args=["--corpus", "c", "--output", "o", "--no-keep-vectors", "--force"])
    assert (index.keep_vectors, index.force) == (False, True)
    assert parse_options(evaluate.Args, ["--chat"]).chat
    assert not parse_options(evaluate.Args, ["--no-chat"]).chat
    assert not parse_options(export.Args, ["run", "--output", "out", "--no-merge"]).merge
    assert parse_options(export.Args, ["--merge", "run", "--output", "out"]).run == Path("run")
    assert parse_options(compare_algorithms.Args, ["--quick", "--no-report-only"]).quick
    assert parse_options(report.Args, ["--live", "a", "b"]).runs == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("config_class", "words", "flag"),
    [
        (IGGRPOConfig, ["--policy.chat", "True"], "policy.chat"),
        (IGGRPOConfig, ["--policy.chat", "false", "--steps", "3"], "policy.chat"),
        (IGGRPOConfig, ["--policy.chat=True"], "policy.chat"),
        (IGGRPOConfig, ["--dynamic-sampling", "False"], "dynamic-sampling"),
        (IGGRPOConfig, ["--no-overwrite", "True"], "overwrite"),
        (IGGRPOConfig, ["--rollout.asynchronous", "True"], "rollout.asynchronous"),
        (evaluate.Args, ["--rollout.asynchronous=False"], "rollout.asynchronous"),
        (evaluate.Args, ["--chat", "True"], "chat"),
        (export.Args, ["run", "--output", "out", "--merge", "False"], "merge"),
    ],
)
def test_a_flag_with_a_value_is_refused_with_how_to_write_it(
    capsys: pytest.CaptureFixture[str], config_class: type[Any], words: list[str], flag: str
) -> None:
    line = refusal(capsys, config_class, *words)
    assert line.startswith("error: --")
    assert line.endswith(f": a flag takes no value; write --{flag} or --no-{flag}")


def test_the_help_shows_flags_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for key, hint in option_types(IGGRPOConfig).items():
        option = key.replace("_", "-")
        assert f"--{option}" in text
        assert (f"--{option}, --no-{option}" in text) == (hint in (bool, bool | None))
    assert ".no-" not in text
    assert "{None,True" not in text
    (three_values,) = (line for line in text.splitlines() if "--rollout.asynchronous" in line)
    (two_values,) = (line for line in text.splitlines() if "--rollout.recompute-logprobs" in line)
    assert len(three_values) == len(two_values)  # the frame


# ---------------------------------------------------------------- choices


@dataclasses.dataclass
class Choices:
    """Every form in which a field may hold choices."""

    one: Literal["a", "b"] = "a"
    none: Literal["a", "b"] | None = None
    several: tuple[Literal["a", "b"], ...] = ()
    free: str = "x"

    def __post_init__(self) -> None:
        check_literals(self, "section")


def test_choices_are_checked_in_every_form() -> None:
    Choices("b", "a", ("a", "b"), "anything")
    for options in ({"one": "c"}, {"one": None}, {"none": "c"}, {"several": ("a", "c")}):
        (name,) = options
        with pytest.raises(ConfigurationError, match=rf"^section\.{name}=.*: must be one of 'a', 'b'$"):
            Choices(**options)


@pytest.mark.parametrize("words", [["--one", "c"], ["--none=c"], ["--several", "a", "c"]])
def test_a_wrong_choice_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    name = words[0].strip("-").partition("=")[0]
    assert refusal(capsys, Choices, *words) == f"error: {name}='c': must be one of 'a', 'b'"
    assert parse_options(Choices, ["--none", "None", "--several", "a", "b", "--free", "c"]).several == ("a", "b")
