"""Evaluation: greedy answers, per sample, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
