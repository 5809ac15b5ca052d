"""The folder of a run: what overwriting may delete and when, what a second run may do, what is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from algorithms.common.config import as_dict, parse_config
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.common.run.folder import begin_folder, check_folder, discard
from algorithms.common.run.run import Run
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers import RetrieverError
from retrievers.lock import ProcessLock

CONFIG = GRPOConfig()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """What a run leaves."""
    folder = tmp_path / "run"
    begin_folder(folder, "grpo", CONFIG)
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    for name in ("tensorboard", "checkpoints/step-000001", "checkpoints/damaged-step-000002", "policy", "wandb"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("x")
    return folder


def held(folder: Path) -> dict[str, bytes]:
    """Every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- overwriting


def test_a_run_is_discarded_and_the_lock_stays(run_dir: Path) -> None:
    lock = ProcessLock(run_dir)
    check_folder(run_dir, "other", replace(CONFIG, overwrite=True))
    discard(run_dir)
    assert {path.name for path in run_dir.iterdir()} == {"run.lock", "owner.json"}
    lock.release()
    discard(run_dir / "gone")  # nothing there


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "'notes.txt', which no run writes"),
        ("thesis/chapter.tex", "'thesis', which no run writes"),
        ("checkpoints/photo.jpg", "'checkpoints/photo.jpg', which no run writes"),
        ("policy.txt", "'policy.txt'"),
        (".git/config", "'.git'"),
    ],
)
def test_a_run_with_something_else_in_it_is_kept(name: str, reason: str, run_dir: Path) -> None:
    (run_dir / name).parent.mkdir(exist_ok=True)
    (run_dir / name).write_text("mine")
    before = held(run_dir)
    with pytest.raises(CheckpointError, match=rf"overwrite: .* is not deleted, because it holds {reason}"):
        check_folder(run_dir, "grpo", replace(CONFIG, overwrite=True))
    with pytest.raises(CheckpointError):
        discard(run_dir)
    assert held(run_dir) == before


def test_what_is_no_run_is_kept(tmp_path: Path) -> None:
    for number, files in enumerate(({"a.txt": "x"}, {"config.yaml": "theme: dark"}, {"config.yaml": "- 1"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        if number == 2:
            (folder / "data.csv").write_text("x")
        with pytest.raises(CheckpointError, match=r"is not deleted, because (it is not a run|its config|it holds)"):
            check_folder(folder, "grpo", replace(CONFIG, overwrite=True))
    with pytest.raises(CheckpointError, match=r"is a file"):
        check_folder(folder / "data.csv", "grpo", replace(CONFIG, overwrite=True))


def test_a_link_in_a_run_is_neither_followed_nor_deleted(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run_dir / "best").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"'best'"):
        discard(run_dir)


def test_a_file_can_not_ask_for_overwriting(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(run_dir), "overwrite": True}))
    with pytest.raises(ConfigurationError, match=r"run\.yaml: 'overwrite' is true.*--overwrite on the command line"):
        parse_config(GRPOConfig, ["--config", str(file)])
    file.write_text(yaml.safe_dump({"run_dir": str(run_dir), "overwrite": False}))
    assert not parse_config(GRPOConfig, ["--config", str(file)]).overwrite
    assert parse_config(GRPOConfig, ["--config", str(file), "--overwrite"]).overwrite


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": PolicyConfig(path="./no-such-model")},
        {"env": EnvConfig(questions=("no-such-file.jsonl",))},
        {"env": EnvConfig(corpus="no-such-corpus.jsonl")},
        {"env": EnvConfig(eval_questions=("no-such-file.jsonl",))},
        {"env": EnvConfig(prompt="@no-such-prompt")},
    ],
)
def test_nothing_is_deleted_before_the_rest_is_valid(wrong: dict[str, object], run_dir: Path) -> None:
    config = replace(CONFIG, run_dir=run_dir, overwrite=True, **wrong)
    before = held(run_dir)
    with pytest.raises((IGSearchError, RetrieverError)):
        Run(GRPO(config), config)
    assert held(run_dir) == before


def test_a_run_that_can_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    config = replace(CONFIG, run_dir=tmp_path / "new", env=EnvConfig(questions=("no-such-file.jsonl",)))
    with pytest.raises(IGSearchError):
        Run(GRPO(config), config)
    assert not (tmp_path / "new").exists()


def test_overwriting_is_for_one_command_only(tmp_path: Path) -> None:
    begin_folder(tmp_path / "run", "grpo", replace(CONFIG, overwrite=True))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == {"algorithm": "grpo", **as_dict(CONFIG)}


# ---------------------------------------------------------------- a second run


def test_a_second_run_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path)
    config = replace(CONFIG, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"is in use by process \d+ on host .* \(started .*; wait until"):
        Run(GRPO(config), config)
    lock.release()
    run = Run(GRPO(config), config)
    with pytest.raises(CheckpointError, match=r"in use by process"):
        Run(GRPO(config), config)
    run.close()
    Run(GRPO(config), config).close()


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", b"", r"config\.yaml: it holds no settings; restore it, or give another --run-dir"),
        ("config.yaml", b"- 1", r"config\.yaml: it holds no settings"),
        ("config.yaml", b"steps: 3\nwhen: 2024-13-45\n", r"config\.yaml: not YAML \(line 2: .*month"),
        ("config.yaml", b"name: caf\xe9\n", r"config\.yaml, line 1: not UTF-8"),
        ("config.yaml", b"a: " + b"[" * 100_000, r"config\.yaml: not YAML \(line 1: nested more than 64 deep"),
        ("config.yaml", b"a: " + b"9" * 5_000, r"config\.yaml: not YAML \(line 1: .*digits"),
        ("test_before.json", b'{"data', r"test_before\.json: not a result file .* restore it, or delete it"),
        ("test_before.json", b"[]", r"test_before\.json: not a result file"),
    ],
)
def test_a_damaged_file_is_named_when_a_run_resumes(name: str, content: bytes, message: str, run_dir: Path) -> None:
    (run_dir / name).write_bytes(content)
    before = held(run_dir)
    with pytest.raises((CheckpointError, ConfigurationError), match=message) as error:
        check_folder(run_dir, "grpo", CONFIG)
    assert "\n" not in str(error.value)
    assert held(run_dir) == before
