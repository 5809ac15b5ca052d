"""How well a search engine finds evidence for questions, with the question as the query.

    answers    share of questions with an answer that occurs, as a whole-word sequence after SQuAD normalisation, in one
               of the first passages. Short answers match by chance, and an answer alone is not evidence.
    pages      share of the supporting pages (by title) that are among the first passages
    nDCG@10    normalised discounted cumulative gain of the supporting pages: of each page, its first passage counts

The last two are known only of questions with supporting titles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from retrievers.base import Passage, Retriever

DEPTHS = (1, 3, 10)


@dataclass(frozen=True)
class Quality:
    """Means over the questions of each data set, at each depth (NaN if no supporting page is known)."""

    answers: dict[str, list[float]]
    pages: dict[str, list[float]]
    ndcg: dict[str, list[float]]  # at the last depth only
    seconds: float  # total time of all searches


def measure_retrieval(questions: Sequence[Question], engine: Retriever, batch_size: int = 64) -> Quality:
    """Search with every question as the query."""
    answers: dict[str, list[list[float]]] = {}
    pages: dict[str, list[list[float]]] = {}
    gains: dict[str, list[list[float]]] = {}
    seconds = 0.0
    for start in track(range(0, len(questions), batch_size), description="searching"):
        batch = questions[start : start + batch_size]
        before = time.perf_counter()
        results = engine.search([question.text for question in batch], min(DEPTHS[-1], len(engine)))
        seconds += time.perf_counter() - before
        for question, passages in zip(batch, results, strict=True):
            answers.setdefault(question.dataset, []).append(answer_hits(question, passages))
            pages.setdefault(question.dataset, []).append(page_hits(question, passages))
            gains.setdefault(question.dataset, []).append([ndcg(question, passages)])
    return Quality(_means(answers), _means(pages), _means(gains), seconds)


def answer_hits(question: Question, passages: Sequence[Passage]) -> list[float]:
    """For each depth: 1.0 if an answer occurs in one of the first passages, else 0.0."""
    golds = [f" {normalize_answer(gold)} " for gold in question.golden_answers if normalize_answer(gold)]
    hits = [any(gold in f" {normalize_answer(p.title + ' ' + p.text)} " for gold in golds) for p in passages]
    return [float(any(hits[:depth])) for depth in DEPTHS]


def page_hits(question: Question, passages: Sequence[Passage]) -> list[float]:
    """For each depth: the share of the supporting pages among the first passages; NaN if none is known."""
    wanted = _titles(question)
    found = [normalize_answer(passage.title) for passage in passages]
    return [len(wanted & set(found[:depth])) / len(wanted) if wanted else math.nan for depth in DEPTHS]


def ndcg(question: Question, passages: Sequence[Passage]) -> float:
    """nDCG of the supporting pages among the first ten passages; NaN if none is known."""
    left = _titles(question)
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(left), DEPTHS[-1])))
    gain = 0.0
    for rank, passage in enumerate(passages[: DEPTHS[-1]]):
        title = normalize_answer(passage.title)
        gain += (title in left) / math.log2(rank + 2)
        left.discard(title)
    return gain / ideal if ideal else math.nan


def _titles(question: Question) -> set[str]:
    return {normalize_answer(title) for title in question.supporting_titles}


def _means(found: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """The mean of the rows of each data set that are known."""
    means: dict[str, list[float]] = {}
    for name, rows in found.items():
        known = np.array([row for row in rows if not math.isnan(row[0])])
        means[name] = known.mean(axis=0).tolist() if len(known) else [math.nan] * len(rows[0])
    return means
