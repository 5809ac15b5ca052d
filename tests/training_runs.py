"""Short training runs by command, for the tests of training, checkpoints and several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.trainer import train
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from igsearch_env.world.bundled import bundled_world


def question_file(path: Path, count: int) -> str:
    """A few questions of the bundled world as a file, so that evaluations are short."""
    with path.open("w", encoding="utf-8") as file:
        for q in bundled_world().questions["train"][:count]:
            row = {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
            file.write(json.dumps(row) + "\n")
    return str(path)


def without_times(path: Path) -> list[dict[str, Any]]:
    """Metrics without the seconds, which no two runs share."""
    rows = read_metrics(path / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def run_ig_grpo(small: dict[str, Any], run_dir: Path, **changes: Any) -> Path:
    """One run of IG-GRPO."""
    config = IGGRPOConfig(**{**small, "run_dir": run_dir, **changes})
    train(IGGRPO(config), config)
    return run_dir
