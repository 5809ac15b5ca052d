"""Warm starts of the bundled policy by one call, in a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.config import WarmStartConfig
from algorithms.common.warm_start.warm_start import warm_started
from igsearch_env.world.bundled import bundled_world


def titled_questions(path: Path, count: int) -> Path:
    """Questions of the bundled world with their supporting titles: the first `count` as train, five as dev."""
    rows = [
        {
            **{"id": f"{split}_{number}", "question": q.text, "golden_answers": list(q.golden_answers)},
            **{"dataset": q.dataset, "supporting_titles": list(q.supporting_titles)},
        }
        for split, size in (("train", count), ("dev", 5))
        for number, q in enumerate(bundled_world().questions[split][:size])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def warm_config(questions: Path, folder: Path | None, **changes: Any) -> TrainConfig:
    """A short warm start: demonstrations, then a round of the policy; `changes` by section or option."""
    env = {"max_searches": 2, "questions": (f"{questions}:train",), "eval_questions": (f"{questions}:dev",)}
    warm = {"folder": folder, "demonstrations": 14, "questions": 12, "samples": 2, "batch_size": 5, "rounds": 1}
    sections = {
        "policy": PolicyConfig(**{"device": "cpu", **changes.pop("policy", {})}),
        "env": EnvConfig(**env | changes.pop("env", {})),
        "warm_start": WarmStartConfig(**{**warm, "save_every": 2, "lr": 5e-4, **changes.pop("warm_start", {})}),
    }
    return TrainConfig(**sections, eval_limit=1, **changes)


def make_warm_start(questions: Path, folder: Path, **changes: Any) -> Path:
    """The folder of the policy of a warm start, made unless it is there."""
    return Path(warm_started(warm_config(questions, folder, **changes)).policy.path)
