"""Evaluation: greedy answers, per sample, with bootstrap intervals."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsearch_env.questions import Question
from igsearch_env.rewards import exact_match, f1
from igsearch_env.trajectory import Trajectory

Floats = NDArray[np.float64]

# Student's t, 97.5%, for 1, 2, ... degrees of freedom; the last serves all above, on the safe side.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


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


@dataclass(frozen=True)
class Difference:
    """Of two runs or sets of runs: mean difference with two 95% intervals, `t` None for a single seed."""

    mean: float
    bootstrap: tuple[float, float]
    t: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether no interval holds 0."""
        intervals = [self.bootstrap] if self.t is None else [self.bootstrap, self.t]
        return all(low > 0 or high < 0 for low, high in intervals)


def paired_difference(
    ours: Mapping[str, Floats], theirs: Mapping[str, Floats], *, resamples: int = 2_000, seed: int = 0
) -> Difference:
    """Macro-averaged difference of values [seeds, questions] by data set, paired by seed and question.

    `bootstrap`: percentiles when seeds, and questions within each data set, are drawn again with replacement (the
    same draws on both sides). A handful of seeds has too little spread for it; `t` is Student's interval over the
    seeds' differences, which asks whether other seeds would agree on these very questions.
    """
    differences = [np.asarray(ours[name], np.float64) - np.asarray(theirs[name], np.float64) for name in ours]
    seeds = len(differences[0])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, seeds, (resamples, seeds))
    means = np.zeros(resamples)
    for values in differences:
        questions = rng.integers(0, values.shape[1], (resamples, values.shape[1]))
        means += [values[np.ix_(s, q)].mean() for s, q in zip(drawn, questions, strict=True)]
    low, high = np.percentile(means / len(differences), [2.5, 97.5])
    by_seed = np.mean([values.mean(axis=1) for values in differences], axis=0)
    mean = float(by_seed.mean())
    if seeds == 1:
        return Difference(mean, (float(low), float(high)), None)
    half = T_975[min(seeds - 1, len(T_975)) - 1] * float(by_seed.std(ddof=1)) / math.sqrt(seeds)
    return Difference(mean, (float(low), float(high)), (mean - half, mean + half))


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
