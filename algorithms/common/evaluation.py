"""Evaluation: greedy answers, per sample, with bootstrap intervals."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igsearch_env.questions import Question
from igsearch_env.rewards import exact_match, f1
from igsearch_env.trajectory import Trajectory


@dataclass(frozen=True)
class Score:
    """Means over the samples of one data set, and the 95% interval of EM."""

    n: int
    em: float
    f1: float
    em_ci95: tuple[float, float]
    searches: float


def bootstrap_ci95(values: Sequence[float], *, resamples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, 95%."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (resamples, len(array)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def score(trajectories: Sequence[Trajectory]) -> dict[str, Score]:
    """Scores by data set, in order of first appearance. An episode without an answer counts as wrong."""
    by_dataset: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        by_dataset.setdefault(trajectory.question.dataset, []).append(trajectory)
    scores = {}
    for dataset, members in by_dataset.items():
        ems = [
            exact_match(t.prediction, t.question.golden_answers) if t.prediction is not None else 0.0 for t in members
        ]
        f1s = [f1(t.prediction, t.question.golden_answers) if t.prediction is not None else 0.0 for t in members]
        scores[dataset] = Score(
            n=len(members),
            em=float(np.mean(ems)),
            f1=float(np.mean(f1s)),
            em_ci95=bootstrap_ci95(ems),
            searches=float(np.mean([t.searches for t in members])),
        )
    return scores


def macro_average(scores: dict[str, Score]) -> float:
    """Mean EM over the data sets, each counting once (as the papers' tables do)."""
    return float(np.mean([s.em for s in scores.values()]))


def limit_per_dataset(questions: Sequence[Question], limit: int) -> list[Question]:
    """The first `limit` questions of each data set; all of them if 0."""
    if limit == 0:
        return list(questions)
    counts: dict[str, int] = {}
    chosen = []
    for question in questions:
        counts[question.dataset] = counts.get(question.dataset, 0) + 1
        if counts[question.dataset] <= limit:
            chosen.append(question)
    return chosen


def write_result(path: Path, trajectories: Sequence[Trajectory], scores: dict[str, Score], **header: Any) -> None:
    """A result file: `header`, then for each data set its scores and a row per question; whole or not at all."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in scores}
    for trajectory in trajectories:
        rows[trajectory.question.dataset].append(_row(trajectory))
    content = {
        **header,
        "macro_average": macro_average(scores),
        "datasets": {name: {**asdict(s), "rows": rows[name]} for name, s in scores.items()},
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def read_result(path: Path) -> tuple[dict[str, Score], dict[str, list[dict[str, Any]]]]:
    """Scores and rows by data set, of a file that `write_result` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))["datasets"]
    rows = {name: values.pop("rows") for name, values in content.items()}
    return {name: Score(**{**s, "em_ci95": tuple(s["em_ci95"])}) for name, s in content.items()}, rows


def _row(trajectory: Trajectory) -> dict[str, Any]:
    golds, prediction = trajectory.question.golden_answers, trajectory.prediction
    return {
        "id": trajectory.question.id,
        "question": trajectory.question.text,
        "golden_answers": list(golds),
        "prediction": prediction,
        "em": exact_match(prediction, golds) if prediction is not None else 0.0,
        "f1": f1(prediction, golds) if prediction is not None else 0.0,
        "searches": trajectory.searches,
        "queries": [turn.query for turn in trajectory.turns if turn.is_search],
        "stop_reason": trajectory.stop_reason,
    }
