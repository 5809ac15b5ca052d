"""How well search engines find evidence: recall of answers and of supporting pages, per benchmark and engine.

    python examples/retrieval_quality.py --questions nq.jsonl.gz hotpotqa.jsonl.gz --corpus corpus.jsonl.gz \\
        --retrievers bm25 indexes/flat indexes/graph bm25+indexes/flat --output quality.md

The metrics are those of algorithms/common/evaluation/retrieval.py, with the question itself as the query (an agent may
write better queries).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from algorithms.common.base.command_line import parse_options
from algorithms.common.evaluation.retrieval import Quality, measure_retrieval
from algorithms.common.evaluation.scores import limit_per_dataset
from igsearch_env.errors import IGSearchError
from igsearch_env.question_lists import where
from igsearch_env.question_sets import evaluation_rows
from igsearch_env.questions import Question, load_questions
from retrievers import open_retriever
from retrievers.program import ends_in_one_line


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


def main(args: Args) -> None:
    """Search, compute the metrics and print them."""
    questions = [question for source in args.questions for question in load_questions(source)]
    questions = limit_per_dataset(evaluation_rows(where(questions, args.where)).questions, args.limit)
    found = {}
    for name in args.retrievers:
        engine = open_retriever(args.corpus, name)
        label = "+".join(Path(part).name for part in name.split("+"))
        found[label] = measure_retrieval(questions, engine, args.batch_size)
        engine.close()
    text = "\n\n".join(tables(questions, found))
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


def tables(questions: Sequence[Question], found: Mapping[str, Quality]) -> list[str]:
    """Markdown tables of answers, pages and nDCG: one row per data set, one column per engine."""
    names = list(dict.fromkeys(question.dataset for question in questions))
    counts = {name: sum(q.dataset == name for q in questions) for name in names}
    known = dict.fromkeys(names, 0)
    for question in questions:
        known[question.dataset] += bool(question.metadata.get("supporting_titles"))
    return [
        _table("answer@1 / 3 / 10", counts, {engine: quality.answers for engine, quality in found.items()}),
        _table("pages@1 / 3 / 10", known, {engine: quality.pages for engine, quality in found.items()}),
        _table("nDCG@10 of pages", known, {engine: quality.ndcg for engine, quality in found.items()}),
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
    with ends_in_one_line(IGSearchError, OSError):
        main(parse_options(Args, description=__doc__))
