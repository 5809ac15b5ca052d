"""Evaluation: from episodes to rows, and from rows to scores. All means are over samples, never over batches.

    Trajectory -> QuestionResult -> Score, per data set -> MacroAverage, data sets weighted equally

An episode whose retrieval failed does not measure the policy, so it is counted, but excluded from every mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from algorithms.common.evaluation.intervals import mean_of_shares_ci95, wilson_ci95
from igsearch_env.question_sets import FAMILIES
from igsearch_env.questions import Question
from igsearch_env.rewards import exact_match, f1
from igsearch_env.trajectory import RETRIEVAL_FAILED, Trajectory


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """The result of one question; JSON values only. An episode without an answer has `em` and `f1` 0.

    `searches` is None if it is not known, as of a recorded prediction without its transcript.
    """

    dataset: str
    id: str
    question: str
    golden_answers: list[str]
    prediction: str | None
    em: float
    f1: float
    searches: int | None
    queries: list[str]
    stop_reason: str

    @classmethod
    def of(cls, trajectory: Trajectory) -> QuestionResult:
        """The row of a finished episode."""
        queries = [turn.query for turn in trajectory.turns if turn.query is not None]
        return cls.scored(
            trajectory.question, trajectory.prediction, trajectory.searches, queries, trajectory.stop_reason
        )

    @classmethod
    def scored(
        cls, question: Question, prediction: str | None, searches: int | None, queries: list[str], stop_reason: str
    ) -> QuestionResult:
        """The row of a question, with EM and F1 of a prediction."""
        return cls(
            question.dataset,
            question.id,
            question.text,
            list(question.golden_answers),
            prediction,
            exact_match(prediction, question.golden_answers) if prediction is not None else 0.0,
            f1(prediction, question.golden_answers) if prediction is not None else 0.0,
            searches,
            queries,
            stop_reason,
        )

    @property
    def failed(self) -> bool:
        """Whether retrieval failed."""
        return self.stop_reason == RETRIEVAL_FAILED

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the question."""
        return self.dataset, self.id


@dataclass(frozen=True)
class Score:
    """Means over the `n` scored samples of one data set (NaN if none), failed retrievals.

    `searches` is the mean over the samples whose number of searches is known, NaN if there is none.
    """

    n: int
    em: float
    f1: float
    searches: float
    failed: int = 0

    @property
    def em_ci95(self) -> tuple[float, float]:
        """Wilson's 95% interval of EM over questions."""
        return wilson_ci95(self.em, self.n)


@dataclass(frozen=True)
class MacroAverage:
    """Means over data sets, weighted equally, and the 95% interval of EM (`mean_of_shares_ci95`)."""

    datasets: list[str]
    em: float
    f1: float
    em_ci95: tuple[float, float]
    searches: float

    @classmethod
    def of(cls, scores: Mapping[str, Score]) -> MacroAverage:
        """The average of at least one data set."""
        members = list(scores.values())
        return cls(
            datasets=list(scores),
            em=macro_average(scores),
            f1=float(np.mean([s.f1 for s in members])),
            em_ci95=mean_of_shares_ci95([(s.em, s.n) for s in members]),
            searches=float(np.mean([s.searches for s in members])),
        )


def score(trajectories: Iterable[Trajectory]) -> dict[str, Score]:
    """`score_rows` of episodes."""
    return score_rows(QuestionResult.of(trajectory) for trajectory in trajectories)


def score_rows(rows: Iterable[QuestionResult]) -> dict[str, Score]:
    """Scores by data set, in order of first appearance."""
    return {name: _score(members) for name, members in by_dataset(rows).items()}


def by_dataset(rows: Iterable[QuestionResult]) -> dict[str, list[QuestionResult]]:
    """Rows by data set, in order of first appearance."""
    groups: dict[str, list[QuestionResult]] = {}
    for row in rows:
        groups.setdefault(row.dataset, []).append(row)
    return groups


def _score(rows: Sequence[QuestionResult]) -> Score:
    scored = [row for row in rows if not row.failed]
    failed = len(rows) - len(scored)
    if not scored:
        nan = float("nan")
        return Score(0, nan, nan, nan, failed)
    ems = [row.em for row in scored]
    known = [row.searches for row in scored if row.searches is not None]
    return Score(
        n=len(scored),
        em=float(np.mean(ems)),
        f1=float(np.mean([row.f1 for row in scored])),
        searches=float(np.mean(known)) if known else float("nan"),
        failed=failed,
    )


def macro_average(scores: Mapping[str, Score]) -> float:
    """Mean EM over the data sets, weighted equally (as in the papers' tables)."""
    return float(np.mean([s.em for s in scores.values()]))


def macro_averages(rows: Iterable[QuestionResult]) -> dict[str, MacroAverage]:
    """Averages over single-hop benchmarks, multi-hop ones and all data sets; an empty family is left out."""
    scores = {name: found for name, found in score_rows(rows).items() if found.n}
    families = {**FAMILIES, "all": tuple(scores)}
    members = {family: {n: scores[n] for n in names if n in scores} for family, names in families.items()}
    return {family: MacroAverage.of(found) for family, found in members.items() if found}


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
