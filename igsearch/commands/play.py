"""Play an episode interactively: type a query, see the passages and their information gain.

    igsearch play                                                       the bundled world
    igsearch play --questions hotpotqa.jsonl --corpus corpus.jsonl      real questions

Each line is a query; a line that begins with `=` is your answer (`= Paris`). An empty line costs nothing. Ctrl-D or
Ctrl-C ends the game. Information gain is computed by the UnigramScorer, which counts words and needs no model.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.rollout.environment import check_world, make_questions, make_retriever
from igsearch_env import IGSearchEnv
from igsearch_env.errors import IGSearchError, check_range
from igsearch_env.protocols import Answer, Search
from igsearch_env.terminal import MAX_WIDTH
from igsearch_env.world.bundled import check_same_world, world_of
from igsearch_env.world.options import BUNDLED
from retrievers.program import ends_in_one_line

HOW = """\
Type a query, or = and your answer, as in "= Paris". Ctrl-D ends the game.
Information gain: how much the passages of a search raise the log-probability of the golden answer over random \
passages (here by counting words, without a model). The reward of a search is its gain, softly clipped at 2 nats.
"""
MAX_CHARS = 10_000  # of a line: queries and answers of the environment may have somewhat more


@dataclass(frozen=True)
class Args:
    """Options of the command."""

    questions: tuple[str, ...] = ()
    """Question files, `bundled`, or a generated world (`world:hard`). Default: bundled."""
    corpus: str | None = None
    """A corpus file, a folder that BM25Retriever.save wrote, or a generated world. Default: that of the questions."""
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
    check_range("episodes", args.episodes, 1)
    questions = make_questions(args.questions or (BUNDLED,), "train")
    corpus = args.corpus or world_of(args.questions)
    check_world(questions if args.questions else None, corpus)
    check_same_world(args.questions, corpus, "--")
    env = IGSearchEnv(
        questions,
        make_retriever(corpus or BUNDLED),
        top_k=args.top_k,
        max_searches=args.max_searches,
        render_mode="human",
    )
    with suppress(ImportError):
        import readline  # noqa: F401 (arrow keys, history and long lines in `input`; Windows has no such module)
    console = Console()
    console.print(HOW, style="dim", markup=False, highlight=False, width=min(console.width, MAX_WIDTH))
    for episode in range(args.episodes):
        env.reset(seed=None if episode else args.seed)
        while not env.trajectory.done:
            assert env.episode is not None
            env.step(ask(env.episode.searches_left))


def ask(searches_left: int) -> Search | Answer:
    """The next action of the player. Lines that are no action are answered by a hint and cost nothing."""
    left = "1 search" if searches_left == 1 else f"{searches_left} searches"
    prompt = f"query ({left} left) or = answer > " if searches_left else "no search left: answer > "
    while True:
        line = input(prompt).strip()
        content = line.removeprefix("=").strip()
        if len(line) > MAX_CHARS:
            print(f"{len(line)} characters: at most {MAX_CHARS}; type a shorter line")
        elif not content:
            print("nothing was typed after =; type = and your answer" if line else "an empty line costs nothing")
        elif line.startswith("=") or not searches_left:
            return Answer(content)
        else:
            return Search(content)


def command() -> None:
    """Play from the command line."""
    with ends_in_one_line(IGSearchError, OSError, UnicodeError):
        try:
            main(parse_options(Args, description=__doc__))
        except (EOFError, KeyboardInterrupt):
            print("\nstopped")
