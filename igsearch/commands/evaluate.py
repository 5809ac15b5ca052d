"""Evaluate a policy on question files with any corpus: EM, F1, searches and 95% intervals, with per-question results.

    igsearch evaluate --questions nq.jsonl.gz hotpotqa.jsonl.gz --corpus corpus.jsonl.gz \\
        --policy search-question --output results.json

By default it evaluates on the test questions of the bundled world. Policies: `bundled`, a folder or model name, or a
scripted policy (search-question, oracle-titles; see igsearch_env/scripted.py). With --output an interrupted evaluation
is resumed from OUTPUT.partial.jsonl by the same command. `igsearch compare` compares two outputs.

A model generates with the engine that `--rollout.engine` names. Under torchrun or accelerate launch every process plays
a part of the questions:

    torchrun --nproc-per-node 8 -m igsearch evaluate --policy FOLDER --rollout.engine vllm --batch-size 256 ...

    igsearch evaluate --answers intermediate_data.json --questions nq.jsonl.gz --output theirs.json

scores answers that another program recorded, predictions or transcripts; no policy and no corpus is opened.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from algorithms.common.base.command_line import command_line, parse_options
from algorithms.common.base.option_words import named_options
from algorithms.common.distributed.failures import end_process, world_size
from algorithms.common.evaluation.fingerprint import Fingerprint, make_fingerprint, recorded_fingerprint
from algorithms.common.evaluation.recorded_answers import read_answers
from algorithms.common.evaluation.recorded_results import own_questions, score_recorded
from algorithms.common.evaluation.results import PartialResult, check_replaced, write_result
from algorithms.common.evaluation.scores import QuestionResult, Score, macro_averages, score_rows
from algorithms.common.evaluation.tables import print_scores
from algorithms.common.rollout.environment import check_world, make_questions, make_retriever
from igsearch.evaluation.asking import ask, choose_questions
from igsearch.evaluation.config import Args, check, check_available, known_fingerprint
from igsearch.evaluation.player import Player, opened_player
from igsearch.evaluation.progress import EvaluationProgress
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.question_sets import BENCHMARKS, unlike_published
from igsearch_env.questions import Question
from igsearch_env.world.bundled import check_same_world
from igsearch_env.world.options import BUNDLED
from retrievers import Retriever, RetrieverError
from retrievers.credentials import masked
from retrievers.lock import ProcessLock
from retrievers.program import ends_in_one_line, raise_on_sigterm, signal_of

if TYPE_CHECKING:
    from algorithms.common.distributed.processes import Processes

WIDTH = 120  # of the table


class StoppedError(IGSearchError, RuntimeError):
    """An error that ended an evaluation after it had begun to ask, with the way to resume."""

    exit_status = 1


def main(args: Args, named: Collection[str] | None = None) -> None:
    """Evaluate; the first of several processes prints the table and writes the output.

    `named`: the options that the command line names; None: those that differ from their defaults.
    """
    check(args, named)
    if args.answers is not None:
        if world_size() > 1:
            raise ConfigurationError(
                f"answers={str(args.answers)!r} in {world_size()} processes: one process scores recorded answers; "
                "start the command without torchrun or accelerate launch"
            )
        score_answers(args, args.answers)
        return
    with ExitStack() as stack:
        first = is_first()
        if not first:  # notices are printed once
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        progress = stack.enter_context(EvaluationProgress(quiet=not first))
        progress.stage(f"looking for the policy {args.policy}")
        check_available(args)
        processes = join(args, progress)
        progress.stage("reading the questions")
        asked = make_questions(args.questions or (BUNDLED,), "test")
        check_world(asked if args.questions else None, args.corpus_or_world)
        check_same_world(args.questions, args.corpus_or_world, "--")
        questions = choose_questions(args, asked)
        if first:
            stack.enter_context(writing(args.output))
            check_replaced(args.output, known_fingerprint(args, questions), partial=True)
        progress.stage(opening(args))
        retriever = make_retriever(args.corpus_or_world or BUNDLED, args.retriever, args.rerank)
        stack.enter_context(closing(retriever))
        if not args.scripted:
            progress.stage("importing torch")
            import_module("algorithms.common.rollout.sampler")
        progress.stage(f"loading the policy {args.policy}")
        player = stack.enter_context(opened_player(args, questions, retriever, processes))
        fingerprint, partial = started(args, questions, retriever, player, processes)
        with resumable(args, processes):
            rows, failed = ask(args, questions, player, partial, progress, processes)
        if processes is not None:
            processes.close()
        if not first:
            return
    scores = {name: replace(found, failed=failed[name]) for name, found in score_rows(rows).items()}
    show(f"{args.policy}: greedy", rows, scores)
    if failed:
        again = "" if partial is None else "; run the same command again to retry them"
        print(f"retrieval failed for {failed.total()} questions, which are excluded{again}", file=sys.stderr)
    if args.output is not None and partial is not None:
        write(args, args.output, rows, scores, fingerprint, unlike_published(questions))
        if not failed:
            partial.path.unlink()


def opening(args: Args) -> str:
    """What opening the corpus does, which may take minutes."""
    corpus = args.corpus_or_world or BUNDLED
    file = Path(corpus).is_file() and args.retriever in ("auto", "bm25")
    return f"reading the corpus {corpus} and building BM25 for it" if file else f"opening the corpus {corpus}"


def join(args: Args, progress: EvaluationProgress) -> Processes | None:
    """The processes that a launcher started; None for one process."""
    if world_size() == 1:
        return None
    progress.stage(f"starting {world_size()} processes")
    from algorithms.common.distributed.config import DistributedConfig
    from algorithms.common.distributed.processes import Processes  # slow: torch

    processes = Processes.start(DistributedConfig())
    processes.repair = "start the same command again"
    return processes


def started(
    args: Args, questions: Sequence[Question], retriever: Retriever, player: Player, processes: Processes | None
) -> tuple[Fingerprint, PartialResult | None]:
    """The fingerprint, and the rows of an earlier start; of the first process alone, which has the files."""
    partial: PartialResult | None = None
    fingerprint: Fingerprint = {}

    def read() -> None:
        nonlocal partial, fingerprint
        fingerprint = make_fingerprint(
            questions=questions,
            retriever=retriever.fingerprint(),
            policy=args.policy,
            rules=player.rules,
            chat=args.chat,
            chat_template=args.model.chat_template.fingerprint,
            max_new_tokens=args.max_new_tokens,
            context_length=args.context_length,
            dtype=player.dtype,
        )
        check_replaced(args.output, fingerprint)
        partial = None if args.partial is None else PartialResult(args.partial, fingerprint)

    if processes is None:
        read()
    else:
        processes.run_on_main(read)
    return fingerprint, partial


@contextmanager
def resumable(args: Args, processes: Processes | None) -> Iterator[None]:
    """Adds to an error or an interruption of the first process, which has the answers, how to resume."""
    if processes is not None and processes.is_main:
        processes.repair = args.resume
    try:
        yield
    except (IGSearchError, RetrieverError, OSError) as error:
        names_repair = args.resume in str(error) or not is_first()
        raise StoppedError(str(error) if names_repair else f"{error}; {args.resume}") from error
    except KeyboardInterrupt as error:
        raise type(error)(f"interrupted: {args.resume}" if is_first() else "") from error


def is_first() -> bool:
    """Whether this is the only process, or the first of several."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


def score_answers(args: Args, path: Path) -> None:
    """Score recorded answers, print the table and write the output."""
    file = read_answers(path)
    asked, file = (make_questions(args.questions, "test"), file) if args.questions else own_questions(file)
    questions = choose_questions(args, asked)
    found = score_recorded(questions, file)
    notes = {name: f"{count:,} questions without an answer, counted as wrong" for name, count in found.missing.items()}
    for name, note in notes.items():
        print(f"warning: {name}: {note}", file=sys.stderr)
    if args.questions and found.extra:
        print(f"{found.extra:,} answers to other questions left out", file=sys.stderr)
    scores = score_rows(found.rows)
    show(f"{path}: recorded answers", found.rows, scores)
    if args.output is not None:
        incomplete = unlike_published(questions)
        notes |= {name: "; ".join(filter(None, (note, notes.get(name)))) for name, note in incomplete.items()}
        with writing(args.output):
            check_replaced(args.output, fingerprint := recorded_fingerprint(questions, path))
            write(args, args.output, found.rows, scores, fingerprint, notes)


def show(title: str, rows: Sequence[QuestionResult], scores: Mapping[str, Score]) -> None:
    """Print the table."""
    print_scores(Console(width=max(WIDTH, Console().width)), title, None, scores, macro_averages(rows))


def writing(output: Path | None) -> AbstractContextManager[object]:
    """The lock of the output file, which two evaluations must not write at once."""
    return nullcontext() if output is None else ProcessLock(output, file=True)


def write(
    args: Args,
    output: Path,
    rows: Sequence[QuestionResult],
    scores: Mapping[str, Score],
    fingerprint: Fingerprint,
    notes: Mapping[str, str],
) -> None:
    """Write the result file; for each benchmark it states whether it is the complete published test set."""
    facts = {
        name: {"published": BENCHMARKS[name].size, "complete": name not in notes and not found.failed}
        for name, found in scores.items()
        if name in BENCHMARKS
    }
    policy = args.policy if args.answers is None else str(args.answers)
    header = {"policy": policy, "settings": settings(args), "fingerprint": fingerprint, "notes": dict(notes)}
    write_result(output, rows, scores, facts, **header)


def settings(args: Args) -> dict[str, Any]:
    """The options as plain data without credentials; where the output is does not matter to what it holds."""
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(args).items() if key != "output"}
    found: dict[str, Any] = masked(plain)
    return found


def command() -> None:
    """Evaluate from the command line."""
    words = command_line()
    options = parse_options(Args, words, description=__doc__)
    raise_on_sigterm()
    try:
        with ends_in_one_line(IGSearchError, OSError):
            try:
                main(options, named_options(words, Args))
            except KeyboardInterrupt as interruption:
                if world_size() > 1:
                    end_process(str(interruption) or "interrupted", stopped=signal_of(interruption))
                raise
    except SystemExit as end:
        if world_size() == 1:
            raise
        end_process(status=int(end.code or 0))
    end_process()
