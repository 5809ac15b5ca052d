"""Select the questions that a corpus can answer, as training data: the others teach a small policy little.

    python examples/select_questions.py --questions nq.jsonl:train musique.jsonl:train --corpus corpus.jsonl \\
        --output train.jsonl

A question is kept if one of its golden answers occurs in the first passages of a search for the question itself, or for
the title of one of its supporting pages. Rows are written as they are, as JSON lines. Easy questions are answered more
often: --max-per-dataset keeps large and easy data sets from prevailing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.files import atomic_write
from algorithms.common.rollout.environment import make_questions, make_retriever
from igsearch_env.answerable import BATCH, answerable
from igsearch_env.errors import ConfigurationError, IGSearchError, check_range
from igsearch_env.questions import Question
from retrievers.program import ends_in_one_line
from retrievers.random_streams import random_stream


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    questions: tuple[str, ...]
    """Question files, folders or sources on the Hub."""
    corpus: str
    """Corpus to search."""
    output: Path
    """File of JSON lines to write."""
    retriever: str = "auto"
    """Search engine, as env.retriever."""
    top_k: int = 3
    """Passages per search."""
    max_per_dataset: int | None = None
    """At most this many questions of each data set: the first that are found, in random order."""
    seed: int = 0
    """Determines which."""


def main(args: Args) -> None:
    """Search, write, and print how many questions of each data set were kept."""
    check_range("top_k", args.top_k, 1)
    check_range("max_per_dataset", 1 if args.max_per_dataset is None else args.max_per_dataset, 1)
    questions = make_questions(args.questions, "all")
    messages = Console(stderr=True, highlight=False)
    messages.print(f"opening {args.corpus}", soft_wrap=True, markup=False)
    kept: set[int] = set()
    table = Table("data set", "questions", "searched", "kept", "share")
    with closing(make_retriever(args.corpus, args.retriever)) as retriever, Progress(console=messages) as progress:
        for dataset, places in in_random_order(questions, args.seed).items():
            most = len(places) if args.max_per_dataset is None else args.max_per_dataset
            task = progress.add_task(dataset, total=len(places))
            searched, found = 0, list[int]()
            for start in range(0, len(places), BATCH):
                if len(found) >= most:
                    break
                batch = places[start : start + BATCH]
                answered = {id(q) for q in answerable([questions[place] for place in batch], retriever, args.top_k)}
                found += [place for place in batch if id(questions[place]) in answered]
                searched += len(batch)
                progress.advance(task, len(batch))
            progress.update(task, total=searched)
            share = len(found) / searched
            kept |= {*found[:most]}
            table.add_row(dataset, f"{len(places):,}", f"{searched:,}", f"{len(found[:most]):,}", f"{share:.0%}")
            if not progress.console.is_terminal:  # a log has no bar
                messages.print(f"{dataset}: {len(found):,} of {searched:,} questions can be answered", soft_wrap=True)
    if not kept:
        raise ConfigurationError(
            f"--corpus {args.corpus}: the first {args.top_k} passages hold the answer of none of {len(questions):,} "
            "questions; choose a corpus that belongs to them, or a larger --top-k"
        )
    with atomic_write(args.output) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(questions[place].to_dict(), ensure_ascii=False) + "\n" for place in sorted(kept))
    console = Console()
    console.print(table)
    console.print(f"{len(kept):,} questions in {args.output}", soft_wrap=True, highlight=False)


def in_random_order(questions: Sequence[Question], seed: int) -> dict[str, list[int]]:
    """The places of the questions of each data set, in random order, so that the first of them are a fair sample."""
    places: dict[str, list[int]] = {question.dataset: [] for question in questions}
    for place in random_stream("questions of a selection", seed).permutation(len(questions)).tolist():
        places[questions[place].dataset].append(place)
    return places


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: nothing was written"):
        main(parse_options(Args, description=__doc__))
