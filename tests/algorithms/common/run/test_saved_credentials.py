"""Credentials of a run's addresses stand in none of its files, and it resumes without them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from algorithms.common.base.command_line import command_line, parse_options
from algorithms.common.config import as_dict, parse_config
from algorithms.common.rollout.config import EngineSettings, RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.common.run.folder import begin_folder, check_folder
from algorithms.common.run.saved_run import read_run
from algorithms.grpo import GRPOConfig
from retrievers.service.address import VARIABLE, split_address

ADDRESS = "http://user:s3cret@host:8000"


def config(address: str) -> GRPOConfig:
    """A run with an address wherever one can stand."""
    return GRPOConfig(
        env=EnvConfig(corpus=address, retriever=f"bm25+{address}"),
        rollout=RolloutConfig(engine="vllm_server", server_url=address),
    )


def open_folder(folder: Path, settings: GRPOConfig) -> None:
    """What a run does with its folder: check it, and begin it."""
    check_folder(folder, "grpo", settings)
    begin_folder(folder, "grpo", settings)


def test_a_run_folder_holds_no_credentials_and_resumes_with_and_without_them(tmp_path: Path) -> None:
    open_folder(tmp_path, config(ADDRESS))
    saved = (tmp_path / "config.yaml").read_text()
    assert "s3cret" not in saved
    assert saved.count("http://***@host:8000") == 3
    for same in (ADDRESS, "http://other:word@host:8000", "http://***@host:8000", "http://host:8000"):
        open_folder(tmp_path, config(same))
    with pytest.raises(CheckpointError, match=r"env.corpus='http://.*host:8000', .*'http://\*\*\*@host:9'") as caught:
        open_folder(tmp_path, config("http://user:s3cret@host:9"))
    assert "s3cret" not in str(caught.value)


def test_folders_of_earlier_versions_resume_and_are_shown_masked(tmp_path: Path) -> None:
    open_folder(tmp_path, config("http://***@host:8000"))
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("***", "user:s3cret"))
    assert "s3cret" not in str(read_run(tmp_path))
    open_folder(tmp_path, config(ADDRESS))
    assert "s3cret" not in path.read_text()


def test_a_saved_configuration_gets_its_credentials_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder(tmp_path, config(ADDRESS))
    settings = (tmp_path / "config.yaml").read_text().split("\n", 1)[1]  # without the line of the algorithm
    (tmp_path / "again.yaml").write_text(settings)
    again = parse_config(GRPOConfig, ["--config", str(tmp_path / "again.yaml")])
    monkeypatch.setenv(VARIABLE, "user:s3cret")
    address, auth = split_address(again.env.corpus)
    assert (address, auth is not None) == ("http://host:8000", True)
    assert dataclasses.replace(again, config=None) == dataclasses.replace(config("http://***@host:8000"), config=None)


@pytest.mark.parametrize(
    "shown", [repr, as_dict, lambda c: repr(c.env), lambda c: c.rollout.engine_settings("float32")]
)
def test_configurations_are_shown_masked(shown: Any) -> None:
    text = str(shown(config(ADDRESS)))
    assert "http://***@host:8000" in text
    assert "s3cret" not in text


def test_settings_of_an_engine_keep_what_they_need() -> None:
    settings = config(ADDRESS).rollout.engine_settings("float32")
    assert isinstance(settings, EngineSettings)
    assert settings.server_url == ADDRESS


def test_the_command_line_is_masked_once_it_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--env.corpus", ADDRESS, f"--env.retriever=bm25+{ADDRESS}"]
    monkeypatch.setattr(sys, "argv", ["grpo.py", *arguments])
    parsed = parse_config(GRPOConfig)
    assert (parsed.env.corpus, parsed.env.retriever) == (ADDRESS, f"bm25+{ADDRESS}")
    assert "s3cret" not in " ".join(sys.argv)
    assert command_line() == [word.replace("user:s3cret", "***") for word in arguments]


@pytest.mark.parametrize(
    "arguments", [[ADDRESS], ["--steps", ADDRESS], ["--env.corpsu", ADDRESS], ["--policy.chat", ADDRESS]]
)
def test_errors_of_the_command_line_are_masked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_options(GRPOConfig, arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert "s3c" not in printed.out + printed.err
    assert printed.err
