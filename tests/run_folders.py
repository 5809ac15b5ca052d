"""Run folders written without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from algorithms.common.evaluation.results import write_result
from algorithms.common.evaluation.scores import QuestionResult, score_rows

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=\"alert(1)\"> \u2028 & ' \" ${1} <!-- "


def training_row(step: int, **values: Any) -> dict[str, Any]:
    """A row of a training step as the trainer writes it, shortened."""
    times = {"time/rollout": 1.0, "time/update": 2.0, "time/step": 3.5, "time/tokens_per_second": 9.0}
    return {"step": step, "reward": 0.1 * step, "searches": 1.0, "policy/entropy": 1.0, **times, **values}


def write_run(
    folder: Path, rows: list[dict[str, Any]], after: dict[str, list[float]] | None = None, **config: Any
) -> Path:
    """A run folder by hand; `after` are the EM of test questions by data set."""
    folder.mkdir(parents=True)
    settings = {"algorithm": "grpo", "steps": 3, "seed": 0, "run_dir": str(folder), **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if after is not None:
        found = [scored_row(name, i, em) for name, ems in after.items() for i, em in enumerate(ems)]
        write_result(folder / "test_after.json", found, score_rows(found), algorithm=settings["algorithm"])
    return folder


def append(run: Path, row: dict[str, Any]) -> None:
    """Log another row."""
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def scored_row(name: str, number: int, em: float) -> QuestionResult:
    """What became of one test question."""
    return QuestionResult(name, f"q{number}", f"Question {number}?", ["yes"], "yes", em, em, 1, ["a query"], "answered")
