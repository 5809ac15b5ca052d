"""Evaluation: from episodes to rows, and from rows to scores. All means are over samples, never over batches.

    Trajectory -> QuestionResult -> Score, per data set -> MacroAverage, data sets weighted equally

An episode whose retrieval failed does not measure the policy, so it is counted, but excluded from every mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import numpy as np

from algorithms.common.evaluation.intervals import mean_of_shares_ci95, wilson_ci95
from igsearch_env.demonstrator import YES_NO, answer_read
from igsearch_env.question_sets import FAMILIES
from igsearch_env.questions import UNKNOWN, Question
from igsearch_env.rewards import exact_match, f1, normalize_answer
from igsearch_env.trajectory import RETRIEVAL_FAILED, Trajectory


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """The result of one question; JSON values only. An episode without an answer has `em` and `f1` 0.

    `searches` is None if it is not known, as of a recorded prediction without its transcript. `answer_found` says
    whether the passages that the episode read contain a golden answer (`igsearch_env.demonstrator.answer_read`): None
    for recorded answers, and for questions whose answer can't be read, "unknown", or yes and no without known
    supporting titles.
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
    answer_found: bool | None = None

    @classmethod
    def of(cls, trajectory: Trajectory) -> QuestionResult:
        """The row of a finished episode."""
        question, queries = trajectory.question, [turn.query for turn in trajectory.turns if turn.query is not None]
        row = cls.scored(question, trajectory.prediction, trajectory.searches, queries, trajectory.stop_reason)
        return replace(row, answer_found=answer_read(trajectory) is not None if _readable(question) else None)

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


def _readable(question: Question) -> bool:
    """Whether passages can show the answer of a question."""
    first = normalize_answer(question.golden_answers[0])
    return first != normalize_answer(UNKNOWN) and (first not in YES_NO or bool(question.supporting_titles))


@dataclass(frozen=True)
class Score:
    """Means over the `n` scored samples of one data set (NaN if none), failed retrievals.

    `searches` is the mean over the samples whose number of searches is known, NaN if there is none. So is
    `answer_found`, the share of samples whose passages contain a golden answer; `em_found` is the EM of these.
    """

    n: int
    em: float
    f1: float
    searches: float
    failed: int = 0
    answer_found: float = nan
    em_found: float = nan

    @property
    def em_ci95(self) -> tuple[float, float]:
        """Wilson's 95% interval of EM over questions."""
        return wilson_ci95(self.em, self.n)


@dataclass(frozen=True)
class MacroAverage:
    """Means over data sets, weighted equally, and the 95% interval of EM (`mean_of_shares_ci95`).

    `answer_found` is the mean over the data sets of which it is known. `em_found` is such that their product is the
    mean share of questions whose answer was both found and given: sets in which few answers are found weigh less.
    """

    datasets: list[str]
    em: float
    f1: float
    em_ci95: tuple[float, float]
    searches: float
    answer_found: float = nan
    em_found: float = nan

    @classmethod
    def of(cls, scores: Mapping[str, Score]) -> MacroAverage:
        """The average of at least one data set."""
        members = list(scores.values())
        known = [s for s in members if not isnan(s.answer_found)]
        found = sum(s.answer_found for s in known)
        given = sum(s.answer_found * s.em_found for s in known if s.answer_found)
        return cls(
            datasets=list(scores),
            em=macro_average(scores),
            f1=float(np.mean([s.f1 for s in members])),
            em_ci95=mean_of_shares_ci95([(s.em, s.n) for s in members]),
            searches=float(np.mean([s.searches for s in members])),
            answer_found=found / len(known) if known else nan,
            em_found=given / found if found else nan,
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
    return Score(
        n=len(scored),
        em=_mean(row.em for row in scored),
        f1=_mean(row.f1 for row in scored),
        searches=_mean(row.searches for row in scored if row.searches is not None),
        failed=failed,
        answer_found=_mean(row.answer_found for row in scored if row.answer_found is not None),
        em_found=_mean(row.em for row in scored if row.answer_found),
    )


def _mean(values: Iterable[float]) -> float:
    """NaN if there is none."""
    found = list(values)
    return float(np.mean(found)) if found else nan


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
