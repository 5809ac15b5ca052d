"""Select the questions that a corpus can answer, as training data: the others teach a small policy little.

    python examples/select_questions.py --questions nq.jsonl:train musique.jsonl:train --corpus corpus.jsonl \\
        --output train.jsonl

A question is kept if one of its golden answers occurs in the first passages of a search for the question itself, or for
the title of one of its supporting pages. Rows are written as they are, as JSON lines. Easy questions are answered more
often: --max-per-dataset keeps large and easy data sets from prevailing.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
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
from igsearch_env.answerable import answerable
from igsearch_env.errors import ConfigurationError, IGSearchError, check_range
from igsearch_env.questions import Question
from retrievers import RetrieverError
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
    """At most this many questions of each data set, drawn at random, so that none prevails. None: all."""
    seed: int = 0
    """Determines which."""


def main(args: Args) -> None:
    """Search, write, and print how many questions of each data set were kept."""
    check_range("top_k", args.top_k, 1)
    check_range("max_per_dataset", 1 if args.max_per_dataset is None else args.max_per_dataset, 1)
    questions = make_questions(args.questions, "all")
    with closing(make_retriever(args.corpus, args.retriever)) as retriever, Progress(transient=True) as progress:
        task = progress.add_task("questions", total=len(questions))
        kept = answerable(questions, retriever, args.top_k, lambda count: progress.advance(task, count))
    if not kept:
        raise ConfigurationError(
            f"--corpus {args.corpus}: the first {args.top_k} passages hold the answer of none of {len(questions):,} "
            "questions; choose a corpus that belongs to them, or a larger --top-k"
        )
    kept = limited(kept, args.max_per_dataset, args.seed)
    with atomic_write(args.output) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(question.to_dict(), ensure_ascii=False) + "\n" for question in kept)
    table = Table("data set", "questions", "kept", "share")
    kept_of = Counter(question.dataset for question in kept)
    for dataset, count in Counter(question.dataset for question in questions).items():
        table.add_row(dataset, f"{count:,}", f"{kept_of[dataset]:,}", f"{kept_of[dataset] / count:.0%}")
    console = Console()
    console.print(table)
    console.print(f"{len(kept):,} questions in {args.output}", soft_wrap=True, highlight=False)


def limited(questions: Sequence[Question], most: int | None, seed: int) -> list[Question]:
    """At most `most` questions of each data set, in their order."""
    if most is None:
        return list(questions)
    places: dict[str, list[int]] = {}
    for place in random_stream("questions of a selection", seed).permutation(len(questions)).tolist():
        places.setdefault(questions[place].dataset, []).append(place)
    return [questions[place] for place in sorted(place for some in places.values() for place in some[:most])]


if __name__ == "__main__":
    try:
        main(parse_options(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written")
    except (IGSearchError, RetrieverError) as error:
        sys.exit(f"error: {error}")
