"""Does information gain reward a query that names a guess of the answer, and which baseline prevents it?

    python examples/guessed_queries.py --output docs/results/guessed-queries.jsonl

For each question a script searches once, in an episode of its own, with each of these queries:

    title               the last supporting title
    question            the question
    answer              the golden answer, as a guess that is right
    wrong               the golden answer of another question of the data set, as a guess that is wrong
    answer, question    the right guess before the question
    wrong, question     the wrong guess before the question

and the gains of these searches are measured over each baseline. A search is *supported* if it found a supporting page
with an answer in it; any other passage can only repeat the guess. The output file has one row per search, without text.
The tables have means and 95% bootstrap intervals over questions: of the gain in nats; of the stabilised gain, which is
the reward of a query; of the difference of probabilities; and the probability that a supported search for the title
has a higher gain than an unsupported guess (AUC).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.files import atomic_write
from algorithms.common.evaluation.auc import auc, auc_interval
from algorithms.common.model.config import Dtype, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.environment import EpisodeConfig, make_questions, make_retriever, make_rules
from algorithms.common.rollout.scripted import play_recorded
from igsearch_env.demonstrator import YES_NO, occurs, passages_read
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import Baseline, InformationGain, InformationGainConfig
from igsearch_env.protocols import Answer, Search
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from retrievers.program import ends_in_one_line
from retrievers.random_streams import random_stream

Floats = NDArray[np.float64]
BASELINES = get_args(Baseline)
STABILISE = np.vectorize(InformationGainConfig().stabilise, otypes=[np.float64])


@dataclass(frozen=True)
class Args(EpisodeConfig):
    """Options of this script."""

    questions: tuple[str, ...] = ("bundled",)
    """Questions with supporting titles: `bundled` (the test split), or question files."""
    corpus: str = "bundled"
    """Corpus to search."""
    policy: str = "bundled"
    """The policy that scores the answers: a folder or model name."""
    chat: bool = False
    """Use the policy's chat template."""
    context_length: int | None = 1024
    """Maximum tokens per episode. None: that of the model."""
    compute_dtype: Dtype | None = None
    """Precision of matrix products; None: float32."""
    per_dataset: int = 30
    """Questions of each data set (at most)."""
    output: Path | None = None
    """File to write the rows to, as JSON lines."""
    seed: int = 0
    """Determines the questions, the wrong guesses and the random evidence."""


@dataclass
class Row:
    """One search: what it found, and its gain over each baseline, in nats and as a difference of probabilities."""

    dataset: str
    id: str
    query: str
    supported: bool
    nats: dict[str, float]
    probability: dict[str, float]


def choose(questions: Sequence[Question], args: Args) -> list[Question]:
    """Questions with supporting titles and an answer that can be guessed: neither yes or no nor in the question."""
    chosen: dict[str, list[Question]] = {}
    for place in random_stream("questions for guesses", args.seed).permutation(len(questions)).tolist():
        question = questions[place]
        of_dataset = chosen.setdefault(question.dataset, [])
        can_be_guessed = normalize_answer(question.golden_answers[0]) not in YES_NO and not any(
            occurs(answer, question.text) for answer in question.golden_answers
        )
        if question.supporting_titles and can_be_guessed and len(of_dataset) < args.per_dataset:
            of_dataset.append(question)
    return [question for of_dataset in chosen.values() for question in of_dataset]


def queries(questions: Sequence[Question], seed: int) -> dict[str, list[str]]:
    """The query of each kind for each question."""
    made: dict[str, list[str]] = {}
    for question in questions:
        rng = random_stream("wrong guess", seed, question.dataset, question.id)
        answer = question.golden_answers[0]
        others = [q for q in questions if q.dataset == question.dataset and not _share_answer(q, question)]
        if not others:
            raise ConfigurationError(f"all questions of {question.dataset!r} have the same answer; use more questions")
        wrong = others[rng.integers(len(others))].golden_answers[0]
        kinds = {"title": question.supporting_titles[-1], "question": question.text, "answer": answer, "wrong": wrong}
        kinds |= {f"{guess}, question": f"{kinds[guess]} {question.text}" for guess in ("answer", "wrong")}
        for kind, query in kinds.items():
            made.setdefault(kind, []).append(query)
    return made


def _share_answer(one: Question, other: Question) -> bool:
    return any(occurs(a, b) or occurs(b, a) for a in one.golden_answers for b in other.golden_answers)


def measured(args: Args, policy: Policy, stepper: EpisodeStepper, questions: Sequence[Question]) -> list[Row]:
    """Play and score all searches. Those that found nothing are left out."""
    played: list[tuple[str, Trajectory]] = []
    for kind, texts in queries(questions, args.seed).items():
        write = _write(stepper, {(q.dataset, q.id): text for q, text in zip(questions, texts, strict=True)})
        played += [(kind, t) for t in play_recorded(policy, stepper, questions, write, max_new_tokens=128)]
    kinds = {id(trajectory): kind for kind, trajectory in played}
    steps = search_steps([trajectory for _, trajectory in played])
    rows = [
        Row(
            s.trajectory.question.dataset,
            s.trajectory.question.id,
            kinds[id(s.trajectory)],
            _supported(s.trajectory),
            {},
            {},
        )
        for s in steps
    ]
    for baseline in BASELINES:
        # Not of the batch: the passages of a wrong guess contain the answer of another question.
        config = InformationGainConfig(baseline=baseline, random_source="corpus")
        scorer = PolicyScorer(policy, pass_tokens=4_096)
        measure = InformationGain(config, scorer, stepper.rules.protocol, stepper.retriever, args.seed)
        for row, gain in zip(rows, measure.measure(steps), strict=True):
            row.nats[baseline] = round(gain.value, 4)
            row.probability[baseline] = round(gain.in_probability, 5)
    return rows


def _write(stepper: EpisodeStepper, query: dict[tuple[str, str], str]) -> Callable[[Trajectory, bool], str]:
    def write(trajectory: Trajectory, may_search: bool) -> str:
        question = trajectory.question
        action = Answer("unknown") if trajectory.turns else Search(query[question.dataset, question.id])
        return stepper.rules.protocol.write(action)

    return write


def _supported(trajectory: Trajectory) -> bool:
    """Whether a supporting page with an answer in it was found."""
    question = trajectory.question
    titles = {normalize_answer(title) for title in question.supporting_titles}
    pages = [page for page in passages_read(trajectory) if normalize_answer(page.title) in titles]
    return any(occurs(answer, page.text) for answer in question.golden_answers for page in pages)


def means(console: Console, title: str, rows: Sequence[Row], value: Callable[[Row, str], float]) -> None:
    """A table of mean values by kind of query and baseline, of all searches and of those that are not supported."""
    table = Table(title=title, title_justify="left")
    for name in ("query", "searches", "n", *BASELINES):
        table.add_column(name, justify="left" if name in ("query", "searches") else "right")
    for kind in dict.fromkeys(row.query for row in rows):
        for which, chosen in (
            ("all", [r for r in rows if r.query == kind]),
            ("supported", [r for r in rows if r.query == kind and r.supported]),
            ("not supported", [r for r in rows if r.query == kind and not r.supported]),
        ):
            if len(chosen) > 1:
                table.add_row(
                    kind, which, str(len(chosen)), *(mean_interval([value(r, b) for r in chosen]) for b in BASELINES)
                )
    console.print(table)


def mean_interval(found: Sequence[float]) -> str:
    """The mean with its 95% bootstrap interval; each value is of another question."""
    values = np.array(found)
    rng = random_stream("bootstrap of a mean", 0)
    low, high = np.percentile(values[rng.integers(0, len(values), (2_000, len(values)))].mean(axis=1), [2.5, 97.5])
    return f"{np.mean(values):+.2f} ({low:+.2f} to {high:+.2f})"


def separation(console: Console, rows: Sequence[Row]) -> None:
    """AUC of supported searches for the title against guesses that are not supported."""
    table = Table(title="AUC, title against guess (nats)", title_justify="left")
    for name in ("guess", *BASELINES):
        table.add_column(name, justify="left" if name == "guess" else "right")
    titles = [row for row in rows if row.query == "title" and row.supported]
    for kind in ("answer", "answer, question", "wrong"):
        guesses = [row for row in rows if row.query == kind and not row.supported]
        table.add_row(kind, *(_auc(titles, guesses, baseline) for baseline in BASELINES))
    console.print(table)


def _auc(positive: Sequence[Row], negative: Sequence[Row], baseline: str) -> str:
    rows = [*positive, *negative]
    values = np.array([row.nats[baseline] for row in rows])
    labels = np.arange(len(rows)) < len(positive)
    _, clusters = np.unique([f"{row.dataset} {row.id}" for row in rows], return_inverse=True)
    low, high = auc_interval(values, labels, clusters)
    return f"{auc(values, labels):.2f} ({low:.2f} to {high:.2f})"


def main(args: Args) -> None:
    """Measure, write the rows and print the tables."""
    console = Console(width=max(150, Console().width))
    questions = choose(make_questions(args.questions, "test"), args)
    policy = Policy.load(
        PolicyConfig(
            path=args.policy,
            chat=args.chat,
            context_length=args.context_length,
            compute_dtype=args.compute_dtype,
        )
    )
    with closing(make_retriever(args.corpus)) as retriever:
        stepper = EpisodeStepper(questions, retriever, None, make_rules(args, policy.tokenizer))
        rows = measured(args, policy, stepper, questions)
    if args.output is not None:
        with atomic_write(args.output) as partial:
            partial.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    means(console, "Gain, nats", rows, lambda row, baseline: row.nats[baseline])
    means(console, "Stabilised gain", rows, lambda row, baseline: float(STABILISE(row.nats[baseline])))
    means(console, "Gain in probability", rows, lambda row, baseline: row.probability[baseline])
    separation(console, rows)


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError):
        main(parse_options(Args, description=__doc__))
