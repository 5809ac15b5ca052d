"""Every kind of file that this project reads: how a good one is made, in a folder, and how it is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from algorithms.common.config import as_dict, parse_config
from algorithms.common.distributed.processes import Processes
from algorithms.common.evaluation.results import PartialResult, read_result, write_result
from algorithms.common.evaluation.scores import QuestionResult, score_rows
from algorithms.common.export.trained_policy import find_policy
from algorithms.common.export.weights import whole_model
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.report.run_report import write_reports
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.run.checkpoint import latest_intact, load_optimizers, load_weights, save_checkpoint
from algorithms.common.run.folder import begin_folder, check_folder
from algorithms.common.run.metrics_log import rows_before
from algorithms.common.run.recorded_trajectories import record_trajectories
from algorithms.common.run.setup import make_learner
from algorithms.common.training.learner import Learner
from algorithms.common.warm_start.folder import check_folder as check_warm_start
from algorithms.common.warm_start.folder import write_settings
from algorithms.comparison.run_summary import read_records
from algorithms.grpo import GRPOConfig
from benchmarks.readable_sources import PASSAGES, SOURCES
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, Gain, Group, Trajectory, Turn
from igsearch_env.world.bundled import POLICY_FOLDER
from retrievers.digests import folder_digest
from retrievers.lock import ProcessLock

CONFIG = GRPOConfig()


@cache
def _policy() -> Policy:
    return Policy.load(PolicyConfig(device="cpu"))


def _learner() -> Learner:
    return make_learner(_policy(), CONFIG, Processes())


def _buffer() -> RolloutBuffer:
    question = Question("q", "What?", ("yes",), "nq", {"supporting_titles": ["Title 1"]})
    gain = Gain(0.5, -1.0, -1.5, ("other",))
    search = Turn(
        "s", Search("x"), "seen", tuple(PASSAGES[:2]), gain, 0.0, (5, 6), (-1.0, -2.0), (0, 1), (7, 8), (0, 2)
    )
    answer = Turn("a", Answer("yes"), completion_ids=(9,), logprobs=(-0.5,))
    members = [Trajectory(question, "p", [search, answer], "yes", float(i), ANSWERED, (1, 2)) for i in range(2)]
    return RolloutBuffer([Group(question, members)], 0, {"step": 1, "attempts": 2})


def _rows() -> list[QuestionResult]:
    return [QuestionResult("nq", f"q{i}", "What?", ["yes"], "yes", 1.0, 1.0, 1, ["x"], ANSWERED) for i in range(4)]


# ---------------------------------------------------------------- runs


def _make_run(folder: Path) -> None:
    begin_folder(folder, "grpo", CONFIG)
    times = {"time/rollout": 1.0, "time/step": 2.0, "time/update": 1.0, "policy/entropy": 1.0, "searches": 1.0}
    rows: list[dict[str, Any]] = [{"step": 0, "eval/em": 0.1, "eval/em/nq": 0.1, "eval/f1": 0.2, "eval/searches": 1.0}]
    rows += [{"step": step, "reward": 0.5, "all_fail": 0.5, **times} for step in range(1, 7)]
    rows += [{"step": 6, "dev/em": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("before", "after"):
        header: dict[str, Any] = {
            "algorithm": "grpo",
            "seed": 0,
            "step": 6,
            "hardware": "x",
            "fingerprint": {"top_k": 3},
        }
        write_result(folder / f"test_{name}.json", _rows(), score_rows(_rows()), **header)
    tokens = int(_buffer().policy_tokens.sum())
    advantages = {"grpo": np.ones(tokens, np.float32)}
    record_trajectories(folder / "trajectories" / "step-000001.json.gz", _buffer(), advantages, _policy().tokenizer)


def _resume_run(folder: Path) -> None:
    check_folder(folder, "grpo", CONFIG)
    rows_before(folder / "metrics.jsonl", 4)


def _make_checkpoint(folder: Path) -> None:
    learner = _learner()
    ids_BT = torch.arange(3, 13).reshape(2, 5)
    learner.module(ids_BT, torch.arange(5).expand(2, 5) > 0)[0].sum().backward()
    learner.optimizer.step()
    save_checkpoint(folder / "checkpoints", _policy(), learner, None, 1, {}, 2)


def _read_checkpoint(folder: Path, *, forged: bool = False) -> None:
    path = folder / "checkpoints" / "step-000001"
    if forged:  # whoever made it recorded the files as they are
        files = [file for file in path.rglob("*") if file.is_file() and file.name != "state.json"]
        try:
            state = json.loads((path / "state.json").read_bytes())
            (path / "state.json").write_text(json.dumps({**state, "files": folder_digest(path, files)}))
        except (ValueError, OSError, TypeError, RecursionError):
            pass
    found, _ = latest_intact(folder / "checkpoints")
    if found is not None:
        load_weights(found, _policy())
        load_optimizers(found, _learner(), None)
    if path.is_dir() and forged:
        (folder / "config.yaml").write_text(yaml.safe_dump({"algorithm": "grpo", **as_dict(CONFIG)}))
        whole_model(find_policy(folder, "step-000001").folder, "float32", merge=False, chat=False)


def _make_policy(folder: Path) -> None:
    shutil.copytree(POLICY_FOLDER, folder / "model")


def _make_adapter(folder: Path) -> None:
    from algorithms.common.model.config import LoraConfig

    policy = Policy.load(PolicyConfig(device="cpu", lora=LoraConfig(rank=2)))
    (folder / "model").mkdir()
    policy.save(folder / "model", None)


def _read_policy(folder: Path) -> None:
    Policy.load(PolicyConfig(path=str(folder / "model"), device="cpu"))


def _make_results(folder: Path) -> None:
    write_result(folder / "result.json", _rows(), score_rows(_rows()), policy="x", fingerprint={"top_k": 3})


def _make_partial(folder: Path) -> None:
    PartialResult(folder / "x.partial.jsonl", {"top_k": 3}).add(_rows())


def _make_records(folder: Path) -> None:
    row = {"label": "grpo", "seed": 0, "start": "x", "command": ["a"], "exact_matches": {"nq": "01"}}
    row |= {"searches": {"nq": 1.0}, "curve": [[0, 0.1], [1, 0.2]], "rewards": [0.5], "means": {"searches": 1.0}}
    (folder / "runs.jsonl").write_text(json.dumps(row) + "\n")


def _make_config(folder: Path) -> None:
    (folder / "run.yaml").write_text(
        yaml.safe_dump({"steps": 3, "policy": {"chat": False}, "env": {"questions": ["x"]}})
    )


def _read_lock(folder: Path) -> None:
    ProcessLock(folder).release()


_OWNER = {"host": "elsewhere", "pid": 1, "started": 1.0}
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    **SOURCES,
    "prompt": (
        lambda f: (f / "p").write_text("Answer {question}"),
        lambda f: make_protocol("search_r1", f"@{f / 'p'}"),
    ),
    "configuration": (_make_config, lambda f: parse_config(GRPOConfig, ["--config", str(f / "run.yaml")])),
    "settings of a warm start": (lambda f: write_settings(f, CONFIG, 1), lambda f: check_warm_start(f, CONFIG, None)),
    "run to resume": (_make_run, _resume_run),
    "run to report": (_make_run, write_reports),
    "checkpoint": (_make_checkpoint, _read_checkpoint),
    "forged checkpoint": (_make_checkpoint, partial(_read_checkpoint, forged=True)),
    "policy": (_make_policy, _read_policy),
    "adapter": (_make_adapter, _read_policy),
    "buffer": (
        lambda f: _buffer().save(f / "buffer.gz"),
        lambda f: RolloutBuffer.load(f / "buffer.gz").check_trainable(),
    ),
    "result": (_make_results, lambda f: read_result(f / "result.json")),
    "unfinished result": (_make_partial, lambda f: PartialResult(f / "x.partial.jsonl", {"top_k": 3})),
    "summaries of runs": (_make_records, lambda f: read_records(f / "runs.jsonl")),
    "owner of a lock": (lambda f: (f / "owner.json").write_text(json.dumps(_OWNER)), _read_lock),
}
