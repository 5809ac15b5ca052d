"""How well does information gain separate useful from useless searches on real text?

    python examples/gain_quality_text.py --questions hotpotqa.jsonl.gz:dev musique.jsonl.gz:dev \\
        --corpus corpus.jsonl.gz --policies HuggingFaceTB/SmolLM2-135M-Instruct runs/warm/policy --output gain.json

For each question whose supporting pages are known, a script searches the titles of these pages one after another, the
question itself, and a supporting title of another question. A search is labelled by what the policy then reads:

    answer      a golden answer
    bridge      a supporting page without an answer
    unrelated   neither

For each policy and each measure of a search, the tables give the probability that an answer, or a bridge, has a higher
value than an unrelated search (AUC; 0.5 is chance) with a 95% interval over questions. Every policy scores the same
searches. The output file holds every search with its label and values; an interrupted measurement is resumed from
OUTPUT.partial.jsonl by the same command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.files import atomic_write
from algorithms.common.base.finished_parts import FinishedParts
from algorithms.common.evaluation.auc import auc, auc_interval
from algorithms.common.model.config import Dtype, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer, measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.environment import EpisodeConfig, make_questions, make_retriever, make_rules
from algorithms.common.rollout.scripted import play_recorded
from igsearch_env.demonstrator import YES_NO, answer_read, passages_read
from igsearch_env.errors import ConfigurationError, IGSearchError, check_range
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocols import Answer, Search
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Group, Trajectory
from retrievers.program import ends_in_one_line
from retrievers.random_streams import random_stream

LABELS = ("answer", "bridge", "unrelated")
MEASURES = {
    "random, N = 1": InformationGainConfig(num_random=1),
    "random, N = 3": InformationGainConfig(),
    "random, N = 8": InformationGainConfig(num_random=8),
    "previous": InformationGainConfig(baseline="previous"),
    "empty": InformationGainConfig(baseline="empty"),
}
PUBLISHED = "random, N = 3"
WIDTH = 120  # of the tables
BATCH = 32  # questions that are played and scored together


@dataclass(frozen=True)
class Args(EpisodeConfig):
    """Options of this script."""

    questions: tuple[str, ...] = ()
    """Question files with supporting titles."""
    corpus: str = ""
    """Corpus to search."""
    policies: tuple[str, ...] = ("bundled",)
    """Policies: folders or model names."""
    num_questions: int = 300
    """Questions in all, from each data set in turn."""
    top_k: int = 1
    """Passages per search."""
    max_observation_tokens: int | None = 80
    """Truncate the passages of a search to this many tokens. None: no limit."""
    context_length: int | None = 1024
    """Maximum tokens per episode. None: that of the model."""
    compute_dtype: Dtype | None = None
    """Precision of matrix products; None: float32."""
    max_new_tokens: int = 48
    """Maximum tokens of a query; a longer one is left out."""
    output: Path | None = None
    """JSON file to write every search to."""
    seed: int = 0
    """Determines the questions, the unrelated searches and the random evidence."""


@dataclass
class SearchRow:
    """One search and its values by measure: nats, and the difference of the probabilities."""

    policy: str
    dataset: str
    id: str
    plan: str
    number: int
    label: str
    query: str
    nats: dict[str, float]
    probability: dict[str, float]


def main(args: Args) -> None:
    """Score and print one table per policy."""
    check_range("num_questions", args.num_questions, 1)
    if not args.questions or not args.corpus:
        raise ConfigurationError("--questions and --corpus are required: files of questions with supporting titles")
    console = Console(width=max(WIDTH, Console().width))
    questions = choose(make_questions(args.questions, "all"), args.num_questions, args.seed)
    rows: list[SearchRow] = []
    settings = json.loads(json.dumps({**asdict(args), "output": None}, default=str))
    finished = FinishedParts(args.output, settings)
    with closing(make_retriever(args.corpus)) as retriever:
        for path in args.policies:
            policy = Policy.load(
                PolicyConfig(path=path, context_length=args.context_length, compute_dtype=args.compute_dtype)
            )
            stepper = EpisodeStepper(questions, retriever, None, make_rules(args, policy.tokenizer))
            of_policy: list[SearchRow] = []
            for start in track(range(0, len(questions), BATCH), description=path, console=console):
                part = f"{path} {start}"
                if part not in finished.parts:
                    buffer, plans = play(args, policy, stepper, questions, start)
                    new = measured(args, path, policy, stepper, buffer, plans)
                    finished.add(part, [asdict(row) for row in new])
                    if not console.is_terminal:  # where there is no bar
                        done = min(start + BATCH, len(questions))
                        print(f"{path}: {done:,} of {len(questions):,} questions", file=sys.stderr)
                of_policy += [SearchRow(**row) for row in finished.parts[part]]
            show(console, path, of_policy)
            rows += of_policy
    if args.output is not None:
        with atomic_write(args.output) as partial:
            content = {"settings": settings, "searches": [asdict(row) for row in rows]}
            partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        finished.remove()


def choose(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """At most `count` questions with supporting titles and an answer that can be read, from each data set in turn."""
    usable = [q for q in questions if q.supporting_titles and normalize_answer(q.golden_answers[0]) not in YES_NO]
    if len(usable) < 2:
        raise ConfigurationError(
            f"{len(usable)} of {len(questions):,} questions have supporting_titles and an answer other than yes or no; "
            "give files with the supporting titles of at least two"
        )
    groups: dict[str, list[Question]] = {}
    for place in random_stream("questions of a gain measurement", seed).permutation(len(usable)).tolist():
        groups.setdefault(usable[place].dataset, []).append(usable[place])
    longest = max(map(len, groups.values()))
    mixed = [group[place] for place in range(longest) for group in groups.values() if place < len(group)]
    return mixed[:count]


def play(
    args: Args, policy: Policy, stepper: EpisodeStepper, questions: Sequence[Question], start: int
) -> tuple[RolloutBuffer, list[str]]:
    """The scripted episodes of a batch of questions, and the plan of each."""
    batch = questions[start : start + BATCH]
    plans: dict[str, list[tuple[str, ...]]] = {"titles": [], "question": [], "other": []}
    for offset, question in enumerate(batch):
        other = questions[(start + offset + 1) % len(questions)]
        plans["titles"].append(question.supporting_titles)
        plans["question"].append((question.text,))
        plans["other"].append(other.supporting_titles[:1])
    groups, names = [], []
    for name, queries in plans.items():
        by_question = {(q.dataset, q.id): found for q, found in zip(batch, queries, strict=True)}

        def write(trajectory: Trajectory, may_search: bool, by_question: dict = by_question) -> str:  # type: ignore[type-arg] # its default
            plan = by_question[trajectory.question.dataset, trajectory.question.id]
            done = trajectory.searches
            action = Search(plan[done]) if may_search and done < len(plan) else Answer("unknown")
            return stepper.rules.protocol.write(action)

        for episode in play_recorded(policy, stepper, batch, write, max_new_tokens=args.max_new_tokens):
            if not episode.retrieval_failed:
                groups.append(Group(episode.question, [episode]))
                names.append(name)
    return RolloutBuffer(groups), names


def label(trajectory: Trajectory, place: int) -> str:
    """What the search of a turn found, of `LABELS`."""
    question = trajectory.question
    only = Trajectory(question, trajectory.prompt, [trajectory.turns[place]])
    if answer_read(only) is not None:
        return "answer"
    titles = {normalize_answer(title) for title in question.supporting_titles}
    found = {normalize_answer(passage.title) for passage in passages_read(only)}
    return "bridge" if titles & found else "unrelated"


def measured(
    args: Args, path: str, policy: Policy, stepper: EpisodeStepper, buffer: RolloutBuffer, plans: Sequence[str]
) -> list[SearchRow]:
    """The searches of a buffer that found something new, with their values by every measure."""
    places = list(_new_searches(buffer))
    rows = [
        SearchRow(
            path,
            t.question.dataset,
            t.question.id,
            plans[row],
            place,
            label(t, place),
            str(t.turns[place].query),
            {},
            {},
        )
        for row, t, place in places
    ]
    for name, config in MEASURES.items():
        for trajectory in buffer.trajectories:
            for turn in trajectory.turns:
                turn.gain = None
        scorer = PolicyScorer(policy, pass_tokens=4_096)
        gain = InformationGain(config, scorer, stepper.rules.protocol, stepper.retriever, args.seed)
        measure_information_gain(buffer, gain)
        for search, (_, trajectory, place) in zip(rows, places, strict=True):
            found = trajectory.turns[place].gain
            if found is not None:
                search.nats[name], search.probability[name] = found.value, found.in_probability
    return [row for row in rows if row.nats]


def _new_searches(buffer: RolloutBuffer) -> Iterator[tuple[int, Trajectory, int]]:
    """Row, trajectory and turn of every search whose passages were not all read before in its episode."""
    for row, trajectory in enumerate(buffer.trajectories):
        seen: set[str] = set()
        for place, turn in enumerate(trajectory.turns):
            ids = {passage.id for passage in turn.passages}
            if turn.is_search and ids - seen:
                yield row, trajectory, place
            seen |= ids


def show(console: Console, path: str, rows: Sequence[SearchRow]) -> None:
    """The table of a policy: every measure over all data sets, and the published one for each."""
    table = Table(title=f"{path}: {len({(r.dataset, r.id) for r in rows})} questions", title_justify="left")
    for name in ("measure", "data", "searches", "n", "mean", "mean, unrelated", "AUC", "95% CI"):
        table.add_column(name, justify="left" if name in ("measure", "data", "searches") else "right")
    parts = [(name, "all", rows, kind) for name in MEASURES for kind in ("nats", "probability")]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        parts.append((PUBLISHED, dataset, [row for row in rows if row.dataset == dataset], "nats"))
    for measure, data, chosen, kind in parts:
        for positive in LABELS[:-1]:
            table.add_row(
                measure if kind == "nats" else f"{measure}, probability",
                data,
                positive,
                *_cells(chosen, measure, kind, positive),
            )
    console.print(table)


def _cells(rows: Sequence[SearchRow], measure: str, kind: str, positive: str) -> list[str]:
    compared = [row for row in rows if row.label in (positive, LABELS[-1])]
    values = np.array([getattr(row, kind)[measure] for row in compared], dtype=np.float64)
    useful = np.array([row.label == positive for row in compared], dtype=bool)
    n = f"{int(useful.sum())} of {len(useful)}"
    if not useful.any() or useful.all():
        return [n, "", "", "", ""]
    _, clusters = np.unique([f"{row.dataset} {row.id}" for row in compared], return_inverse=True)
    low, high = auc_interval(values, useful, clusters)
    means = f"{values[useful].mean():+.3f}", f"{values[~useful].mean():+.3f}"
    return [n, *means, f"{auc(values, useful):.2f}", f"{low:.2f} to {high:.2f}"]


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: with --output, the same command resumes"):
        main(parse_options(Args, description=__doc__))
