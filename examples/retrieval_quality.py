"""How well search engines find evidence: recall of answers and of supporting pages, per benchmark and engine.

    python examples/retrieval_quality.py --questions nq.jsonl.gz hotpotqa.jsonl.gz --corpus corpus.jsonl.gz \\
        --retrievers bm25 indexes/flat indexes/graph bm25+indexes/flat --output quality.md

Two metrics, both with the question itself as the query (an agent may write better queries):

    answer@k    share of questions with an answer that occurs, as a whole-word sequence after SQuAD normalisation, in
                one of the first k passages. Short answers match by chance, and an answer alone is not evidence.
    pages@k     share of the supporting pages (by title) that are among the first k passages, averaged over the
                questions whose supporting pages are known.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from algorithms.common.base.command_line import parse_options
from algorithms.common.evaluation.scores import limit_per_dataset
from igsearch_env.errors import IGSearchError
from igsearch_env.question_sets import evaluation_rows
from igsearch_env.questions import Question, load_questions, where
from igsearch_env.rewards import normalize_answer
from retrievers import Passage, Retriever, RetrieverError, open_retriever

DEPTHS = (1, 3, 10)


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    questions: tuple[str, ...]
    """Question files."""
    corpus: str
    """Corpus file."""
    retrievers: tuple[str, ...] = ("bm25",)
    """Search engines, in the notation of `open_retriever`: bm25, index folders, A+B."""
    where: str | None = None
    """Only questions with this metadata, as KEY=VALUE (e.g. random500=true)."""
    limit: int = 0
    """Maximum number of questions per data set; 0: all."""
    batch_size: int = 64
    """Questions per search request."""
    output: Path | None = None
    """Markdown file to write the tables to."""


@dataclass(frozen=True)
class Quality:
    """Recall of one engine, by benchmark and depth (NaN if no supporting page is known)."""

    answers: dict[str, list[float]]
    pages: dict[str, list[float]]
    seconds: float  # total time of all searches


def main(args: Args) -> None:
    """Search, compute the metrics and print them."""
    questions = [question for source in args.questions for question in load_questions(source)]
    questions = limit_per_dataset(evaluation_rows(where(questions, args.where)).questions, args.limit)
    found = {}
    for name in args.retrievers:
        engine = open_retriever(args.corpus, name)
        label = "+".join(Path(part).name for part in name.split("+"))
        found[label] = measure(questions, engine, args.batch_size)
        engine.close()
    text = "\n\n".join(tables(questions, found))
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


def measure(questions: Sequence[Question], engine: Retriever, batch_size: int) -> Quality:
    """Search with every question as the query."""
    answers: dict[str, list[list[bool]]] = {}
    pages: dict[str, list[list[float]]] = {}
    seconds = 0.0
    for start in track(range(0, len(questions), batch_size), description="searching"):
        batch = questions[start : start + batch_size]
        before = time.perf_counter()
        results = engine.search([question.text for question in batch], min(DEPTHS[-1], len(engine)))
        seconds += time.perf_counter() - before
        for question, passages in zip(batch, results, strict=True):
            answers.setdefault(question.dataset, []).append(answer_hits(question, passages))
            pages.setdefault(question.dataset, []).append(page_hits(question, passages))
    return Quality(
        {name: np.mean(rows, axis=0).tolist() for name, rows in answers.items()},
        {name: _mean_of_known(rows) for name, rows in pages.items()},
        seconds,
    )


def answer_hits(question: Question, passages: Sequence[Passage]) -> list[bool]:
    """For each depth: whether an answer occurs in one of the first passages."""
    golds = [f" {normalize_answer(gold)} " for gold in question.golden_answers if normalize_answer(gold)]
    hits = [any(gold in f" {normalize_answer(p.title + ' ' + p.text)} " for gold in golds) for p in passages]
    return [any(hits[:depth]) for depth in DEPTHS]


def page_hits(question: Question, passages: Sequence[Passage]) -> list[float]:
    """For each depth: the share of the supporting pages among the first passages; NaN if none is known."""
    wanted = {normalize_answer(title) for title in question.metadata.get("supporting_titles") or ()}
    titles = [normalize_answer(passage.title) for passage in passages]
    return [len(wanted & set(titles[:depth])) / len(wanted) if wanted else np.nan for depth in DEPTHS]


def _mean_of_known(rows: Sequence[Sequence[float]]) -> list[float]:
    known = np.array([row for row in rows if not np.isnan(row[0])])
    return known.mean(axis=0).tolist() if len(known) else [np.nan] * len(DEPTHS)


def tables(questions: Sequence[Question], found: Mapping[str, Quality]) -> list[str]:
    """Markdown tables of answers and pages: one row per data set, one column per engine, `@1 / @3 / @10` per cell."""
    names = list(dict.fromkeys(question.dataset for question in questions))
    counts = {name: sum(q.dataset == name for q in questions) for name in names}
    known = dict.fromkeys(names, 0)
    for question in questions:
        known[question.dataset] += bool(question.metadata.get("supporting_titles"))
    return [
        _table("answer@1 / 3 / 10", counts, {engine: quality.answers for engine, quality in found.items()}),
        _table("pages@1 / 3 / 10", known, {engine: quality.pages for engine, quality in found.items()}),
        "\n".join(f"{name}: {len(questions) / quality.seconds:.0f} questions/s" for name, quality in found.items()),
    ]


def _table(title: str, counts: Mapping[str, int], found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    rows = [f"| {title} | n | " + " | ".join(found) + " |", "|---|---:|" + "---:|" * len(found)]
    names = [name for name in counts if counts[name]]
    for name in names:
        cells = " | ".join(_cell(values[name]) for values in found.values())
        rows.append(f"| {name} | {counts[name]} | {cells} |")
    means = [np.mean([values[name] for name in names], axis=0) for values in found.values()] if names else []
    rows.append(f"| **mean of the sets** | {sum(counts.values())} | " + " | ".join(map(_cell, means)) + " |")
    return "\n".join(rows)


def _cell(values: Sequence[float]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values)


if __name__ == "__main__":
    try:
        main(parse_options(Args, description=__doc__))
    except (IGSearchError, RetrieverError) as error:
        sys.exit(f"error: {error}")
