"""Checkpoints: whole or not there, the last good one always intact, the best one kept."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import learner_of, tiny_policy
from safetensors import SafetensorError
from training_runs import question_file, run_ig_grpo, without_times

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.checkpoint import (
    CheckpointError,
    checkpoints,
    latest_intact,
    load_optimizers,
    load_weights,
    save_checkpoint,
    write_policy,
)
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.learner import Learner


def trained(policy: Policy) -> Learner:
    """What trains a policy, after one step."""
    learner = learner_of(policy)
    ids_BT = torch.arange(3, 13).reshape(2, 5)
    learner.module(ids_BT, torch.arange(5).expand(2, 5) > 0)[0].sum().backward()
    learner.optimizer.step()
    return learner


def save(folder: Path, policy: Policy, learner: Learner, step: int, keep: int = 2) -> Path:
    """A checkpoint without a critic."""
    return save_checkpoint(folder, policy, learner, None, step, {}, keep)


def weights(policy: Policy) -> list[torch.Tensor]:
    """A copy."""
    return [p.detach().clone() for p in policy.model.parameters()]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    policy = tiny_policy()
    learner = trained(policy)
    path = save(tmp_path, policy, learner, 7)
    again = tiny_policy(seed=1)
    assert load_weights(path, again) == 7
    assert all(torch.equal(a, b) for a, b in zip(weights(policy), weights(again), strict=True))
    other = trained(again)
    load_weights(path, again)
    load_optimizers(path, other, None)
    states = [list(made.optimizer.state.values()) for made in (learner, other)]
    assert all(torch.equal(a[key], b[key]) for a, b in zip(*states, strict=True) for key in a)


def test_a_checkpoint_holds_json_and_safetensors_only(tmp_path: Path) -> None:
    policy = tiny_policy()
    path = save(tmp_path, policy, trained(policy), 1)
    files = {file for file in path.rglob("*") if file.is_file()}
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    named = json.loads((path / "state.json").read_text())["files"]
    assert {path / name for name in named} == files - {path / "state.json"}


@pytest.mark.parametrize("keep", [1, 3])
def test_the_latest_are_kept(keep: int, tmp_path: Path) -> None:
    policy = tiny_policy()
    learner = trained(policy)
    for step in range(1, 6):
        save(tmp_path, policy, learner, step, keep)
    assert [path.name for path in checkpoints(tmp_path)] == [f"step-{step:06d}" for step in range(6 - keep, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in checkpoints(tmp_path)]


def broken_tensors(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ("algorithms.common.distributed.tensor_files.save_file", broken_tensors),
        ("algorithms.common.distributed.tensor_files.save_file", no_space),
        ("algorithms.common.model.policy.Policy.save", no_space),
    ],
)
def test_a_full_disk_leaves_the_last_good_one(
    where: str, failure: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy()
    learner = trained(policy)
    good = save(tmp_path, policy, learner, 1)
    with monkeypatch.context() as patch:
        patch.setattr(where, failure)
        with pytest.raises(CheckpointError, match=r"step-000002: not written.*GB are free.*is intact"):
            save(tmp_path, policy, learner, 2)
    assert checkpoints(tmp_path) == [good]
    assert [path.name for path in tmp_path.iterdir()] == [good.name]  # nothing half-written lies about
    assert load_weights(good, tiny_policy(seed=1)) == 1
    assert save(tmp_path, policy, learner, 2).is_dir()  # with free space again, it is written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for one checkpoint of a tiny policy, not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    policy = tiny_policy()
    save(tmp_path / "size", policy, trained(policy), 1)
    size = sum(file.stat().st_size for file in (tmp_path / "size").rglob("*") if file.is_file())
    kilobytes = int(1.5 * size / 1024) + 64
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    policy = tiny_policy()
    learner = trained(policy)
    good = save(small_disk, policy, learner, 1, keep=1)
    with pytest.raises(CheckpointError, match=r"not written.*Free disk space"):
        save(small_disk, policy, learner, 2, keep=1)
    assert checkpoints(small_disk) == [good]
    assert load_weights(good, tiny_policy(seed=1)) == 1


def test_a_disk_without_room_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    learner = trained(policy)
    monkeypatch.setattr(Path, "mkdir", no_space)
    with pytest.raises(CheckpointError, match=r"not written \(OSError: \[Errno 28\]"):
        save(tmp_path / "checkpoints", policy, learner, 1)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()

    def bug(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("algorithms.common.distributed.tensor_files.save_file", bug)
    with pytest.raises(ValueError, match=r"^a bug$"):
        save(tmp_path, policy, trained(policy), 1)


def test_a_policy_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    learner = trained(policy)
    write_policy(tmp_path / "best", policy, learner, {"step": 1, "dev/em": 0.5})
    before = {file.name: file.read_bytes() for file in (tmp_path / "best").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("algorithms.common.model.policy.Policy.save", no_space)
        with pytest.raises(CheckpointError, match=r"the previous .*best is intact"):
            write_policy(tmp_path / "best", policy, learner, {"step": 2, "dev/em": 0.6})
    assert {file.name: file.read_bytes() for file in (tmp_path / "best").iterdir()} == before
    write_policy(tmp_path / "best", policy, learner, {"step": 2, "dev/em": 0.6})
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {"step": 2, "dev/em": 0.6}


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that validates after every step, and gets better and worse."""
    folder = tmp_path_factory.mktemp("small")
    questions = question_file(folder / "questions.jsonl", 7)
    return {
        "steps": 4,
        "eval_every": 1,
        "eval_limit": 0,
        "save_every": 1,
        "policy": PolicyConfig(path="bundled"),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=4, group_size=4, max_new_tokens=12),
        "optimizer": OptimizerConfig(lr=3e-3, warmup_steps=0),
    }


def test_the_best_by_validation_is_kept_also_over_an_interruption(learning: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_ig_grpo(learning, tmp_path / "whole")
    rows = [row for row in without_times(run_dir) if "dev/em" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    best = max(row["dev/em"] for row in rows)
    first = next(row["step"] for row in rows if row["dev/em"] == best)
    assert json.loads((run_dir / "best" / "best.json").read_text()) == {"step": first, "dev/em": best}
    again = Policy.load(PolicyConfig(path=str(run_dir / "best"), device="cpu"))
    assert again.model is not None
    run_ig_grpo(learning, tmp_path / "parts", steps=2)
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-000002")  # killed before it was written
    run_ig_grpo(learning, tmp_path / "parts")
    assert json.loads((tmp_path / "parts" / "best" / "best.json").read_text()) == {"step": first, "dev/em": best}


def test_what_bounds_memory_alone_may_change_when_a_run_resumes(learning: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_ig_grpo(learning, tmp_path / "run", steps=1)
    other = OptimizerConfig(lr=3e-3, warmup_steps=0, token_budget=500)
    run_ig_grpo(learning, run_dir, steps=2, optimizer=other)
    assert [row["step"] for row in without_times(run_dir) if "reward" in row] == [1, 2]
    with pytest.raises(CheckpointError, match=r"optimizer\.lr=0\.003, this command has 0\.001"):
        run_ig_grpo(learning, run_dir, steps=3, optimizer=OptimizerConfig(lr=1e-3, warmup_steps=0))


# ---------------------------------------------------------------- damage


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1, 2 and 3."""
    policy = tiny_policy()
    learner = trained(policy)
    for step in (1, 2, 3):
        save(tmp_path / "checkpoints", policy, learner, step, keep=3)
    return tmp_path / "checkpoints"


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "state.json cut": lambda p: (p / "state.json").write_text((p / "state.json").read_text()[:40]),
    "state.json empty": lambda p: (p / "state.json").write_text(""),
    "state.json a list": lambda p: (p / "state.json").write_text("[]"),
    "state.json gone": lambda p: (p / "state.json").unlink(),
    "of another step": lambda p: (p / "state.json").write_text((p.parent / "step-000001" / "state.json").read_text()),
    "weights cut": lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:99]),
    "weights flipped": lambda p: flip(p / "model.safetensors"),
    "weights gone": lambda p: (p / "model.safetensors").unlink(),
    "optimizer flipped": lambda p: flip(p / "optimizer" / "00000.safetensors"),
    "optimizer gone": lambda p: shutil.rmtree(p / "optimizer"),
    "a folder for a file": lambda p: ((p / "state.json").unlink(), (p / "state.json").mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_taken_and_this_is_said(kind: str, three: Path) -> None:
    DAMAGE[kind](three / "step-000003")
    found, warnings = latest_intact(three)
    assert found == three / "step-000002"
    (line,) = warnings
    assert re.fullmatch(r"step-000003 is damaged \(.+\): renamed to damaged-step-000003", line)
    assert load_weights(found, tiny_policy(seed=1)) == 2
    policy = tiny_policy()
    save(three, policy, trained(policy), 3, keep=1)  # the next checkpoint replaces good ones, never the only good one
    assert [path.name for path in checkpoints(three)] == ["step-000003"]
    assert (three / "damaged-step-000003").is_dir()
    assert latest_intact(three) == (three / "step-000003", [])


def test_a_run_without_an_intact_checkpoint_stops_and_loses_nothing(three: Path) -> None:
    for path in three.iterdir():
        flip(path / "model.safetensors")
    before = sorted(three.rglob("*"))
    with pytest.raises(CheckpointError, match=r"step-000003 is damaged \(model\.safetensors .*no intact checkpoint"):
        latest_intact(three)
    assert sorted(three.rglob("*")) == before


def test_a_checkpoint_of_another_version_is_no_damage(three: Path) -> None:
    state = json.loads((three / "step-000003" / "state.json").read_text())
    (three / "step-000003" / "state.json").write_text(json.dumps({**state, "format": 2}))
    with pytest.raises(CheckpointError, match=r"step-000003: format 2, this version reads 3"):
        latest_intact(three)


def test_where_checkpoints_belong_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(CheckpointError, match=r"checkpoints: a file where the folder of the checkpoints belongs"):
        latest_intact(tmp_path / "checkpoints")
    assert latest_intact(tmp_path / "gone") == (None, [])


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(learning: dict[str, Any], tmp_path: Path) -> None:
    whole = without_times(run_ig_grpo(learning, tmp_path / "whole", steps=3))
    run_dir = run_ig_grpo(learning, tmp_path / "run", steps=2)
    flip(run_dir / "checkpoints" / "step-000002" / "optimizer" / "00000.safetensors")
    run_ig_grpo(learning, run_dir, steps=3)
    assert (run_dir / "checkpoints" / "damaged-step-000002").is_dir()
    assert [r for r in without_times(run_dir) if "reward" in r] == [r for r in whole if "reward" in r]
