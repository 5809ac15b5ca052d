"""Recorded steps without a run, for tests of pages, and run folders that hold them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run_folders import training_row, write_run

from algorithms.common.run.recorded_trajectories import FORMAT, RecordedStep

Searches = Sequence[tuple[str, float | None]]
"""Queries with their gains."""


def episode(searches: Searches, answer: str, *, correct: bool, advantage: float | None = 0.5) -> dict[str, Any]:
    """An episode of one attempt; every turn has two tokens with half of `advantage` each."""
    turns = [_turn("search", query, gain, advantage) for query, gain in searches]
    return {
        "prediction": answer,
        "outcome": float(correct),
        "correct": correct,
        "stop_reason": "answered",
        "attempts": [],
        "turns": [*turns, _turn("answer", answer, None, advantage)],
    }


def _turn(action: str, content: str, gain: float | None, advantage: float | None) -> dict[str, Any]:
    passage = {"id": "p", "title": f"Title of {content}", "text": "A text.", "score": 1.0, "supporting": None}
    return {
        "action": action,
        "content": content,
        "tokens": ["a", "b"],
        "advantages": {} if advantage is None else {"grpo": [advantage / 2] * 2},
        "logprobs": [-0.5, -0.5],
        "query_span": [0, 1] if action == "search" else None,
        "observation": "",
        "passages": [passage] if action == "search" else [],
        "gain": gain
        and {"value": gain, "logprob_real": gain, "logprob_baseline": 0.0, "baseline_evidences": ["random"]},
    }


def group(name: str, episodes: list[dict[str, Any]], dataset: str = "made_up") -> dict[str, Any]:
    """The group of a question."""
    question = {"id": name, "text": f"Question {name}?", "golden_answers": ["yes"], "dataset": dataset}
    return {"question": question, "prompt": "A prompt.", "trajectories": episodes}


def step_of(step: int, groups: list[dict[str, Any]], algorithms: tuple[str, ...] = ("grpo",)) -> RecordedStep:
    """A recorded step."""
    return RecordedStep(step, algorithms, groups)


def run_with(folder: Path, recorded: dict[str, RecordedStep]) -> Path:
    """A run folder that holds recorded steps, by the kind of their files and step (`tracked-000002`)."""
    rows = [training_row(1, **{"information_gain/mean": 0.1}), training_row(2)]
    run = write_run(folder, rows)
    (run / "trajectories").mkdir()
    for name, file in recorded.items():
        content = {"format": FORMAT, "step": file.step, "algorithms": list(file.algorithms), "groups": file.groups}
        (run / "trajectories" / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return run
