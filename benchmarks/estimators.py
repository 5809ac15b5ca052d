"""Advantage estimators: seconds of `advantages` for a synthetic batch of 2,560 trajectories, 5.1 million tokens.

    python -m benchmarks.estimators

512 questions with five episodes each, of one to four searches and an answer, about 570 policy tokens per turn. A
question has six documents, of which a search returns three, preferably the first ones: within a group some observations
(1,500 characters) are equal, some differ only in the note of the last search, others share one or two documents, or
have the same documents in another order. Every call gets a buffer without cached values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import tyro

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.gigpo import GiGPO, GiGPOConfig
from algorithms.graft import GRAFT, GRAFTConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.igpo import IGPO, IGPOConfig
from algorithms.mr_search import MRSearch, MRSearchConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from algorithms.rloo import RLOO
from algorithms.turn_ppo import TurnPPO, TurnPPOConfig
from benchmarks.measure import Line, interleaved
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, Attempt, Gain, Group, Trajectory, Turn
from retrievers.base import Passage
from retrievers.random_streams import random_stream

GROUPS, GROUP_SIZE, TOKENS = 512, 5, 2_000  # questions, episodes of each, mean policy tokens of an episode
DOCUMENTS, SHOWN, SENTENCES = 6, 3, 6  # of a question, by a search, in a document
ONSETS = ("b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "w", "j", "k", "v", "qu", "th", "st", "")
VOWELS, CODAS = ("a", "e", "e", "i", "o", "u", "ea"), ("", "", "n", "r", "s", "t", "d", "l", "nd", "ng", "ck", "x")
SIDES: dict[str, Algorithm] = {
    "GRPO": GRPO(GRPOConfig()),
    "Dr. GRPO": GRPO(GRPOConfig(scale_by_std=False)),
    "IG-GRPO": IGGRPO(IGGRPOConfig()),
    "RLOO": RLOO(TrainConfig()),
    "REINFORCE++": ReinforcePlusPlus(ReinforcePlusPlusConfig()),
    "REINFORCE++, gamma 0.99": ReinforcePlusPlus(ReinforcePlusPlusConfig(gamma=0.99)),
    "REINFORCE++, group baseline": ReinforcePlusPlus(ReinforcePlusPlusConfig(group_baseline=True)),
    "PPO": PPO(PPOConfig()),
    "PPO, gamma 0.99, lambda 0.95": PPO(PPOConfig(gamma=0.99, gae_lambda=0.95)),
    "Turn-PPO": TurnPPO(TurnPPOConfig()),
    "IGPO": IGPO(IGPOConfig()),
    "MR-Search": MRSearch(MRSearchConfig()),
    "GiGPO, equal anchors": GiGPO(GiGPOConfig(similarity=None)),
    "GiGPO, similar anchors": GiGPO(GiGPOConfig(similarity=0.9)),
    "GRAFT, equal states": GRAFT(GRAFTConfig(similarity=None)),
    "GRAFT, similar states": GRAFT(GRAFTConfig(similarity=0.9)),
}


def lines(repeats: int = 5) -> list[Line]:
    """Seconds of every algorithm.

    Args:
        repeats: Repetitions of each measurement; the fastest is reported, because the work is the same each time.
    """
    groups = made_up_groups(random_stream("groups of the estimator benchmark", 0))
    tokens = int(RolloutBuffer(groups).policy_tokens.sum())
    values = random_stream("values of the estimator benchmark", 0).normal(0.5, 0.2, tokens).astype(np.float32)

    processor: dict[str, list[float]] = {name: [] for name in SIDES}

    def run(name: str) -> Callable[[], None]:
        def call() -> None:
            start = time.process_time()
            SIDES[name].advantages(RolloutBuffer(groups, values=values))
            processor[name].append(time.process_time() - start)

        return call

    times = interleaved({name: run(name) for name in SIDES}, repeats)
    return [
        Line(
            f"advantages of {tokens / 1e6:.1f} million tokens: {name}",
            min(times[name]),
            "s",
            target=1.0 if "similar" in name else 0.1,
            at_most=True,
            detail=f"{min(processor[name]):.3f} s of processor time",  # also reliable on a busy machine
        )
        for name in SIDES
    ]


def made_up_groups(rng: np.random.Generator) -> list[Group]:
    """The batch: episodes of two to five turns of various lengths, in up to three attempts."""
    syllables = [onset + vowel + coda for onset in ONSETS for vowel in VOWELS for coda in CODAS]
    sizes = np.sort(rng.integers(1, 5, 3_000))  # frequent words are short
    words = ["".join(rng.choice(syllables, size)) for size in sizes.tolist()]
    counts = rng.integers(2, 6, GROUPS * GROUP_SIZE).tolist()
    mean = TOKENS * len(counts) / sum(counts)
    lengths = iter(np.maximum(rng.gamma(6.0, mean / 6, sum(counts)), 20).astype(int).tolist())
    groups = []
    for number in range(GROUPS):
        question = Question(f"q{number}", text(rng, words, 1), ("answer",), "made up")
        shown = [Passage(str(i), words[-i], text(rng, words, SENTENCES), 1.0) for i in range(1, DOCUMENTS + 1)]
        members = [episode(rng, question, shown, lengths, counts.pop()) for _ in range(GROUP_SIZE)]
        groups.append(Group(question, members))
    return groups


def text(rng: np.random.Generator, words: list[str], sentences: int) -> str:
    """Sentences of 15 words, with frequencies as in natural language."""
    drawn = (len(words) ** rng.random((sentences, 15))).astype(int) - 1
    return " ".join(" ".join(words[i] for i in row).capitalize() + "." for row in drawn.tolist())


def episode(
    rng: np.random.Generator, question: Question, documents: list[Passage], lengths: Iterator[int], turns: int
) -> Trajectory:
    """Searches whose first 12 tokens are the query, then an answer; a quarter of the answers is correct."""
    protocol, played = make_protocol(), list[Turn]()
    for _ in range(turns):
        length = next(lengths)
        turn = Turn("", Answer("x"), completion_ids=(7,) * length, logprobs=(-0.5,) * length)
        played.append(turn)
        if len(played) < turns:
            ranks = np.argsort(np.arange(DOCUMENTS) - 1.5 * rng.gumbel(size=DOCUMENTS))
            turn.action, turn.query_span = Search("x"), (0, 12)
            turn.passages = tuple(documents[i] for i in ranks[:SHOWN])
            turn.observation = protocol.observation(turn.passages) + protocol.last_call() * (len(played) == 4)
            real, before = rng.normal(-2.0, 1.0, 2).tolist()
            turn.gain = Gain(real - before, real, before)
    ends = sorted({-(-turns * attempt // 3) for attempt in (1, 2, 3)})
    outcomes = (rng.random(len(ends)) < 0.25).astype(float).tolist()
    attempts = [Attempt(end, "x", outcome) for end, outcome in zip(ends, outcomes, strict=True)]
    return Trajectory(question, "", played, "x", outcomes[-1], ANSWERED, (1,), attempts)


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} (target: {measured.target}) {measured.detail}")
