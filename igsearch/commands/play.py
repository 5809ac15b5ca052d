"""Play an episode interactively: type a query, see the passages and their information gain.

    igsearch play                                                       the bundled world
    igsearch play --questions hotpotqa.jsonl --corpus corpus.jsonl      real questions

Each line is a query; a line that begins with `=` is your answer. Information gain is computed by the UnigramScorer.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
from rich.console import Console

import igsearch_env  # noqa: F401 (registers IGSearch-v0)
from algorithms.common.base.command_line import parse_options
from algorithms.common.rollout.environment import check_world, make_questions, make_retriever
from igsearch_env.errors import IGSearchError, check_range
from igsearch_env.protocols import Answer, Search, make_protocol
from retrievers.program import ends_in_one_line


@dataclass(frozen=True)
class Args:
    """Options of the command."""

    questions: tuple[str, ...] = ()
    """Question files, or `bundled`. Default: bundled."""
    corpus: str | None = None
    """A corpus file, a folder that BM25Retriever.save wrote, or `bundled`. Default: bundled."""
    top_k: int = 3
    """Passages per search."""
    max_searches: int = 4
    """Maximum number of searches before you must answer."""
    seed: int = 0
    """Random seed that selects the questions."""
    episodes: int = 1
    """Number of questions to play."""


def main(args: Args) -> None:
    """Play the episodes."""
    check_range("seed", args.seed, 0)
    questions = make_questions(args.questions or ("bundled",), "train")
    check_world(questions if args.questions else None, args.corpus)
    console = Console()
    env = gymnasium.make(
        "IGSearch-v0",
        questions=questions,
        retriever=make_retriever(args.corpus or "bundled"),
        top_k=args.top_k,
        max_searches=args.max_searches,
        render_mode="human",
    )
    protocol = make_protocol()
    for episode in range(args.episodes):
        env.reset(seed=None if episode else args.seed)
        ended = False
        while not ended:
            line = console.input("query, or = answer > ").strip()
            action = protocol.write(Answer(line[1:]) if line.startswith("=") else Search(line))
            _, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated


def command() -> None:
    """Play from the command line."""
    with ends_in_one_line(IGSearchError, OSError):
        try:
            main(parse_options(Args, description=__doc__))
        except (EOFError, KeyboardInterrupt):
            print("\nstopped")
