"""Evaluate a policy on question files with any corpus: EM, F1, searches and 95% intervals, per sample.

    python examples/evaluate.py --questions nq.jsonl.gz hotpotqa.jsonl.gz --corpus corpus.jsonl.gz \\
        --policy search-question --output results.json

Without files it asks the bundled world's test questions. Policies: `bundled`, a folder or model name, or a
scripted one (search-question, oracle-titles; see igsearch_env/scripted.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import track

from algorithms.common.config import EnvConfig
from algorithms.common.decoding import Decoder
from algorithms.common.evaluation import limit_per_dataset, score, write_result
from algorithms.common.logs import print_scores
from algorithms.common.policy import Policy, PolicyConfig
from algorithms.common.rollout import play
from algorithms.common.run import make_protocol, make_questions, make_retriever
from igsearch_env.engine import SearchEngine
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.questions import Question
from igsearch_env.scripted import SCRIPTED, make_scripted_policy, play_scripted
from igsearch_env.trajectory import Trajectory
from igsearch_env.vector_env import IGSearchVectorEnv
from retrievers import Retriever, RetrieverError

Player = Callable[[Sequence[Question]], list[Trajectory]]


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    questions: tuple[str, ...] = ("bundled",)
    """Question files, or `bundled`."""
    corpus: str = "bundled"
    """A corpus file, a folder that BM25Retriever.save wrote, or `bundled`."""
    policy: str = "bundled"
    """`bundled`, search-question, oracle-titles, a folder, or a model name."""
    output: Path | None = None
    """JSON file for the results and every question's row."""
    retriever: str = "bm25"
    """The search engine over the corpus: bm25."""
    top_k: int = 3
    """Passages a search."""
    max_searches: int = 4
    """Actions before the policy must answer."""
    protocol: str = "search_r1"
    """Tag family: search_r1 or autorefine."""
    prompt: str = "bare"
    """Prompt: search_r1, autorefine, bare, a template with {question}, or @FILE."""
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""
    max_new_tokens: int = 32
    """Tokens a turn, at most."""
    limit: int = 0
    """Questions of each data set, from the first; 0: all."""
    where: str | None = None
    """Only questions whose metadata says so, as KEY=VALUE (e.g. random500=true)."""
    batch_size: int = 64
    """Episodes at once."""


def main(args: Args) -> None:
    """Evaluate, print the table, write the file."""
    if args.retriever != "bm25":
        raise ConfigurationError(f"retriever={args.retriever!r}: must be 'bm25', the one this version has")
    questions = limit_per_dataset(_filter(make_questions(args.questions, "test"), args.where), args.limit)
    retriever = make_retriever(args.corpus)
    player = make_player(args, retriever)
    trajectories: list[Trajectory] = []
    chunk = 4 * args.batch_size  # between two reports of progress; within it, episodes enter as others end
    for start in track(range(0, len(questions), chunk), description="evaluating"):
        trajectories += player(questions[start : start + chunk])
    scores = score(trajectories)
    print_scores(Console(), f"{args.policy}: greedy", None, scores)
    if args.output is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}
        write_result(args.output, trajectories, scores, policy=args.policy, settings=settings)


def make_player(args: Args, retriever: Retriever) -> Player:
    """Something that plays a batch of questions; no information gain is paid."""
    protocol = make_protocol(EnvConfig(protocol=args.protocol, prompt=args.prompt))
    rules: dict[str, Any] = {"top_k": args.top_k, "max_searches": args.max_searches, "protocol": protocol}
    if args.policy in SCRIPTED:
        scripted = make_scripted_policy(args.policy)
        return lambda batch: play_scripted(
            scripted, IGSearchVectorEnv(len(batch), batch, retriever, scorer=None, autoreset=False, **rules), batch
        )
    policy = Policy.load(PolicyConfig(path=args.policy, chat=args.chat))
    decoder = Decoder(policy, slots=args.batch_size, max_new_tokens=args.max_new_tokens, temperature=0.0)
    return lambda batch: play(decoder, SearchEngine(batch, retriever, None, **rules), batch, seed=(0,))


def _filter(questions: list[Question], where: str | None) -> list[Question]:
    if where is None:
        return questions
    key, equals, value = where.partition("=")
    if not equals:
        raise ConfigurationError(f"where={where!r}: must be KEY=VALUE, e.g. random500=true")
    chosen = [q for q in questions if str(q.metadata.get(key)).lower() == value.lower()]
    if not chosen:
        raise ConfigurationError(f"where={where!r}: no question has it; known keys: {sorted(questions[0].metadata)}")
    return chosen


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (IGSearchError, RetrieverError) as error:
        sys.exit(f"error: {error}")
