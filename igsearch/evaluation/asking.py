"""The questions of an evaluation: chosen, dealt out to the processes, played, and kept on disk as they end."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from algorithms.common.evaluation.results import PartialResult
from algorithms.common.evaluation.scores import QuestionResult, limit_per_dataset
from igsearch.evaluation.config import Args
from igsearch.evaluation.player import Player
from igsearch.evaluation.progress import EvaluationProgress
from igsearch_env.question_lists import check_unique, where
from igsearch_env.question_sets import evaluation_rows, unlike_published
from igsearch_env.questions import Question
from retrievers import RetrievalError

if TYPE_CHECKING:
    from algorithms.common.distributed.processes import Processes

WINDOW = 4  # the failure rate is that of so many times `batch_size` of all processes


def choose_questions(args: Args, questions: Sequence[Question]) -> list[Question]:
    """Select the questions; prints to standard error which rows were left out and which benchmarks are incomplete."""
    selection = evaluation_rows(where(questions, args.where), args.split)
    chosen = limit_per_dataset(selection.questions, args.limit)
    check_unique(chosen, "questions")
    for name, count in selection.left_out.items():
        print(f"{name}: {count:,} rows of other splits left out", file=sys.stderr)
    for name, note in unlike_published(chosen).items():
        print(f"warning: {name}: {note}", file=sys.stderr)
    return chosen


def ask(
    args: Args,
    questions: Sequence[Question],
    player: Player,
    partial: PartialResult | None,
    progress: EvaluationProgress,
    processes: Processes | None,
) -> tuple[list[QuestionResult], Counter[str]]:
    """Play the questions; returns the rows of answered questions, in order, and the retrieval failures by data set.

    Questions in `partial` are skipped; new rows are added to it as they come. Rank 0 gets the rows of all processes,
    the others none. Raises `RetrievalError` if the failure rate is exceeded, or if retrieval failed for every question
    of a data set.

    Args:
        partial: of rank 0, if there is an output.
        processes: None for one process.
    """
    rows = {} if partial is None else dict(partial.rows)
    left = [place for place, question in enumerate(questions) if (question.dataset, question.id) not in rows]
    if processes is not None:
        left = processes.gather(left)[0]
    if rows:
        print(f"resuming: {len(rows):,} of {len(questions):,} questions are already answered", file=sys.stderr)
    size = 1 if processes is None else processes.size
    # So that the first process does not take all of a few questions.
    slots = max(1, min(args.batch_size, -(-len(left) // size)))
    progress.begin(len(questions), len(questions) - len(left), size, slots)
    failed: Counter[str] = Counter()
    # With few questions, one failure alone would exceed the rate of those that have ended: hence the whole window.
    window = min(WINDOW * args.batch_size * size, len(questions))
    recent: deque[bool] = deque(maxlen=window)
    with closing(_rows(player, [questions[place] for place in left], slots, processes)) as ended:
        for row in ended:
            progress.ended()
            recent.append(row.failed)
            if row.failed:
                failed[row.dataset] += 1
            else:
                rows[row.key] = row
                if partial is not None:
                    partial.add([row])
            if sum(recent) > args.max_failure_rate * window:
                raise RetrievalError(
                    f"retrieval failed for {sum(recent)} of the last {len(recent)} questions, more than "
                    f"max_failure_rate={args.max_failure_rate} of {window} allows; fix the retriever"
                )
    ordered = [rows[q.dataset, q.id] for q in questions if (q.dataset, q.id) in rows]
    for name in failed.keys() - {row.dataset for row in ordered}:
        raise RetrievalError(f"retrieval failed for every question of {name}; fix the retriever")
    return ordered, failed


def _rows(
    player: Player, questions: Sequence[Question], slots: int, processes: Processes | None
) -> Generator[QuestionResult]:
    """The rows of all questions as they end; none on ranks that are not 0, which play their share of them."""
    if processes is None:
        yield from map(QuestionResult.of, player.play(questions, slots))
        return
    from algorithms.common.distributed.work_queue import WorkQueue  # slow: torch

    queue = WorkQueue(processes, len(questions))
    asked: Iterable[Question] = (questions[number] for number in queue.numbers())
    own = (asdict(QuestionResult.of(trajectory)) for trajectory in player.play(asked, slots))
    yield from (QuestionResult(**row) for row in queue.results(own))
