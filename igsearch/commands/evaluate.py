"""Evaluate a policy on question files with any corpus: EM, F1, searches and 95% intervals, with per-question results.

    igsearch evaluate --questions nq.jsonl.gz hotpotqa.jsonl.gz --corpus corpus.jsonl.gz \\
        --policy search-question --output results.json

By default it evaluates on the test questions of the bundled world. Policies: `bundled`, a folder or model name, or a
scripted policy (search-question, oracle-titles; see igsearch_env/scripted.py). With --output an interrupted evaluation
is resumed from OUTPUT.partial.jsonl by the same command. `igsearch compare` compares two outputs.

    igsearch evaluate --answers intermediate_data.json --questions nq.jsonl.gz --output theirs.json

scores answers that another program recorded, predictions or transcripts; no policy and no corpus is opened.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.output_path import check_output_file
from algorithms.common.base.resumable_lines import partial_path
from algorithms.common.evaluation.fingerprint import Fingerprint, make_fingerprint, recorded_fingerprint
from algorithms.common.evaluation.recorded_answers import read_answers
from algorithms.common.evaluation.recorded_results import own_questions, score_recorded
from algorithms.common.evaluation.results import PartialResult, check_replaced, write_result
from algorithms.common.evaluation.scores import QuestionResult, Score, limit_per_dataset, macro_averages, score_rows
from algorithms.common.evaluation.tables import print_scores
from algorithms.common.model.chat_template import DATE
from algorithms.common.model.config import Dtype, PolicyConfig
from algorithms.common.rollout.environment import EpisodeConfig, check_world, make_questions, make_retriever, make_rules
from igsearch_env.errors import ConfigurationError, IGSearchError, check_range
from igsearch_env.question_lists import check_unique, where
from igsearch_env.question_sets import BENCHMARKS, PUBLISHED, evaluation_rows, unlike_published
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.scripted import SCRIPTED, check_policy_name, make_scripted_policy, play_scripted
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from retrievers import RetrievalError, Retriever
from retrievers.lock import ProcessLock
from retrievers.program import ends_in_one_line

Player = Callable[[Sequence[Question]], list[Trajectory]]
WIDTH = 100  # of the table


@dataclass(frozen=True)
class Args(EpisodeConfig):
    """Options of the command."""

    questions: tuple[str, ...] = ()
    """`bundled`, or files and folders in any published form, or hf:REPO/CONFIG:SPLIT. Default: bundled; with answers,
    the questions and golden answers in their file."""
    corpus: str | None = None
    """`bundled` (the default), a corpus file, an index folder, or the address of a retrieval service."""
    policy: str = "bundled"
    """`bundled`, search-question, oracle-titles, a folder, or a model name."""
    answers: Path | None = None
    """File of recorded predictions or transcripts to score, instead of playing a policy."""
    output: Path | None = None
    """JSON file to write the results to, with one row per question."""
    split: str = PUBLISHED
    """Split of the seven benchmarks: the one that papers report (published), all rows (all), or a split by name."""
    retriever: str = "auto"
    """Search backend over the corpus: auto, bm25, an index folder or an address; several joined by + are fused."""
    rerank: str = ""
    """Cross-encoder that reranks the retrieved passages; empty: no reranking."""
    chat: bool = False
    """Apply the tokenizer's chat template to the prompt."""
    chat_template_arguments: str = ""
    """Arguments of the chat template, as a JSON object: '{"enable_thinking": false}'."""
    chat_template_date: str = DATE
    """The date that a chat template reads, whatever day it is."""
    max_new_tokens: int = 32
    """Maximum tokens per turn."""
    context_length: int | None = None
    """Maximum tokens per episode; None: the context length of the model."""
    dtype: Dtype = "float32"
    """Precision of the weights."""
    kv_cache_tokens: int = 262_144
    """Size of the KV cache in tokens; with a long context it limits the number of concurrent episodes."""
    limit: int = 0
    """Maximum number of questions per data set, in file order; 0: all."""
    where: str | None = None
    """Only questions with this metadata, as KEY=VALUE (e.g. random500=true)."""
    batch_size: int = 64
    """Maximum number of concurrent episodes."""
    max_failure_rate: float = 0.2
    """Stop if retrieval fails for more than this share of the questions between two progress updates."""

    @property
    def model(self) -> PolicyConfig:
        """The policy, if it is not a scripted one."""
        return PolicyConfig(
            path=self.policy,
            chat=self.chat,
            chat_template_arguments=self.chat_template_arguments,
            chat_template_date=self.chat_template_date,
            dtype=self.dtype,
            context_length=self.context_length,
        )

    @property
    def partial(self) -> Path | None:
        """File of the rows until the output is complete."""
        return None if self.output is None else partial_path(self.output)


def main(args: Args) -> None:
    """Evaluate, print the table and write the output."""
    check_range("limit", args.limit, 0)
    check_range("batch_size", args.batch_size, 1)
    check_range("max_failure_rate", args.max_failure_rate, 0, 1)
    check_output_file(args.output)
    if args.answers is not None:
        score_answers(args, args.answers)
        return
    check_policy_name(args.policy)
    asked = make_questions(args.questions or ("bundled",), "test")
    check_world(asked if args.questions else None, args.corpus)
    questions = choose_questions(args, asked)
    corpus = args.corpus or "bundled"
    with writing(args.output), closing(make_retriever(corpus, args.retriever, args.rerank)) as retriever:
        player, rules = make_player(args, retriever)
        fingerprint = make_fingerprint(
            questions=questions,
            retriever=retriever.fingerprint(),
            policy=args.policy,
            rules=rules,
            chat=args.chat,
            chat_template=args.model.chat_template.fingerprint,
            max_new_tokens=args.max_new_tokens,
            context_length=args.context_length,
            dtype=args.dtype,
        )
        check_replaced(args.output, fingerprint)
        partial = None if args.partial is None else PartialResult(args.partial, fingerprint)
        rows, failed = ask(args, questions, player, partial)
    scores = {name: replace(found, failed=failed[name]) for name, found in score_rows(rows).items()}
    show(f"{args.policy}: greedy", rows, scores)
    if failed:
        again = "" if partial is None else "; run the same command again to retry them"
        print(f"retrieval failed for {failed.total()} questions, which are excluded{again}", file=sys.stderr)
    if args.output is not None and partial is not None:
        write(args, args.output, rows, scores, fingerprint, unlike_published(questions))
        if not failed:
            partial.path.unlink()


def score_answers(args: Args, path: Path) -> None:
    """Score recorded answers, print the table and write the output."""
    unused = [
        name for name in ("policy", "corpus", "retriever", "rerank") if getattr(args, name) != getattr(Args(), name)
    ]
    if unused:
        raise ConfigurationError(
            f"answers={str(path)!r} with {' and '.join(unused)}: recorded answers need neither a policy nor a corpus; "
            "omit one or the other"
        )
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


def make_player(args: Args, retriever: Retriever) -> tuple[Player, EpisodeRules]:
    """A function that plays a batch of questions, and the rules it uses; information gain is not measured."""
    if args.policy in SCRIPTED:
        scripted, rules = make_scripted_policy(args.policy), make_rules(args)
        return lambda batch: play_scripted(scripted, EpisodeStepper(batch, retriever, None, rules), batch), rules
    from algorithms.common.model.policy import Policy  # slow: torch
    from algorithms.common.model.turn_end import TurnEnd
    from algorithms.common.rollout.collect import play
    from algorithms.common.rollout.decoder import Decoder

    policy = Policy.load(args.model)
    rules = make_rules(args, policy.tokenizer)
    decoder = Decoder(
        policy,
        TurnEnd(policy.tokenizer, rules.protocol.stop_strings),
        slots=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        temperature=0.0,
        kv_cache_tokens=args.kv_cache_tokens,
    )
    return lambda batch: play(decoder, EpisodeStepper(batch, retriever, None, rules), batch, seed=(0,)), rules


def ask(
    args: Args, questions: Sequence[Question], player: Player, partial: PartialResult | None
) -> tuple[list[QuestionResult], Counter[str]]:
    """Play the questions; returns the rows of answered questions, in order, and the retrieval failures by data set.

    Questions in `partial` are skipped; new rows are added to it. Raises `RetrievalError` if the failure rate is
    exceeded, or if retrieval failed for every question of a data set.
    """
    rows = {} if partial is None else dict(partial.rows)
    if rows:
        print(f"resuming: {len(rows):,} of {len(questions):,} questions are already answered", file=sys.stderr)
    failed: Counter[str] = Counter()
    chunk = 4 * args.batch_size  # questions per progress update; within a chunk, episodes start as others end
    for start in track(range(0, len(questions), chunk), description="evaluating"):
        asked = [q for q in questions[start : start + chunk] if (q.dataset, q.id) not in rows]
        if not asked:
            continue
        played = [QuestionResult.of(trajectory) for trajectory in player(asked)]
        answered = [row for row in played if not row.failed]
        rows |= {row.key: row for row in answered}
        if partial is not None:
            partial.add(answered)
        failed.update(row.dataset for row in played if row.failed)
        # The share of a full chunk: with the few questions of the last chunk, one failure would exceed the rate.
        failures, whole = len(played) - len(answered), min(chunk, len(questions))
        if failures > args.max_failure_rate * whole:
            raise RetrievalError(
                f"retrieval failed for {failures} of {len(asked)} questions, more than max_failure_rate="
                f"{args.max_failure_rate} allows; fix the retriever{_resume(args)}"
            )
    ordered = [rows[q.dataset, q.id] for q in questions if (q.dataset, q.id) in rows]
    for name in failed.keys() - {row.dataset for row in ordered}:
        raise RetrievalError(f"retrieval failed for every question of {name}; fix the retriever{_resume(args)}")
    return ordered, failed


def _resume(args: Args) -> str:
    return "" if args.partial is None else f": the same command resumes from {args.partial}"


def write(
    args: Args,
    output: Path,
    rows: Sequence[QuestionResult],
    scores: Mapping[str, Score],
    fingerprint: Fingerprint,
    notes: Mapping[str, str],
) -> None:
    """Write the result file; for each benchmark it states whether it is the complete published test set."""
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(args).items() if key != "output"}
    facts = {
        name: {"published": BENCHMARKS[name].size, "complete": name not in notes and not found.failed}
        for name, found in scores.items()
        if name in BENCHMARKS
    }
    policy = args.policy if args.answers is None else str(args.answers)
    header = {"policy": policy, "settings": settings, "fingerprint": fingerprint, "notes": dict(notes)}
    write_result(output, rows, scores, facts, **header)


def command() -> None:
    """Evaluate from the command line."""
    options = parse_options(Args, description=__doc__)
    with ends_in_one_line(IGSearchError, OSError, interrupted=f"interrupted{_resume(options)}"):
        main(options)
