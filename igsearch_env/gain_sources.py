"""Dense rewards in place of the measured information gain: the controls of every algorithm that uses gains.

    shuffled   the measured gains, permuted among all searches of a batch: the right sizes for the wrong searches
    random     log u - log v with u, v uniform in (0, 1]: no information; nothing is scored
    support, distance, similarity    oracles: the progress that the search makes, as `oracles.py` defines it

Progress is from 0 to 1. The gain of an oracle is that of a potential p which is linear in it:

    p = FLOOR + (1 - FLOOR) progress,   in probability p_t - p_{t-1} = (1 - FLOOR) x progress made by search t
                                        in nats log(p_t / p_{t-1}): from no progress to all of it -log FLOOR = 2

So both forms are 0 where a search makes no progress, and gains of an episode add up, as those of `previous` do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from igsearch_env.errors import ConfigurationError
from igsearch_env.evidence import SearchStep
from igsearch_env.oracles import ORACLES, check_supporting, progress_by
from igsearch_env.questions import Question
from igsearch_env.trajectory import Gain
from retrievers.base import Retriever
from retrievers.random_streams import random_stream

Source = Literal["policy", "shuffled", "random", "support", "distance", "similarity"]
SCORED: tuple[Source, ...] = ("policy", "shuffled")  # need a scorer
OF_BATCHES: tuple[Source, ...] = ("shuffled", "random")  # a gain says nothing about its own search
FLOOR = math.exp(-2)  # potential of an episode that has found nothing: 2 nats, where the soft clip begins


def shuffled_gains(gains: Sequence[Gain], seed: int) -> list[Gain]:
    """The gains in a random order; each stays whole."""
    return [gains[place] for place in random_stream("shuffled gains", seed).permutation(len(gains))]


def random_gains(count: int, seed: int) -> list[Gain]:
    """`count` gains of two independent probabilities, uniform in (0, 1].

    In nats they have mean 0 and deviation sqrt(2) (a Laplace distribution), in probability mean 0 and deviation
    1 / sqrt(6).
    """
    logs = np.log1p(-random_stream("random gains", seed).random((count, 2)))
    return [Gain(real - baseline, real, baseline) for real, baseline in logs.tolist()]


def oracle_gains(steps: Iterable[SearchStep], source: str, retriever: Retriever | None) -> list[Gain]:
    """The gain of each search by the progress of its episode (`oracles.py`), before and after it."""
    progress = progress_by(source, retriever)
    gains = []
    for step in steps:
        found = [
            [p for turn in step.trajectory.turns[:end] for p in turn.passages] for end in (step.index, step.index + 1)
        ]
        before, after = (progress(step.trajectory.question, passages) for passages in found)
        gains.append(progress_gain(before, after))
    return gains


def progress_gain(before: float, after: float) -> Gain:
    """The gain of a search that changes the progress of its episode, in [0, 1]."""
    real, baseline = (math.log(FLOOR + (1 - FLOOR) * progress) for progress in (after, before))
    return Gain(real - baseline, real, baseline)


def progress_made(gain: Gain, source: str = "support") -> float:
    """The progress that a search with this gain of an oracle made; of another source, its gain in probability."""
    return gain.in_probability / (1 - FLOOR) if source in ORACLES else gain.in_probability


def check_source(source: Source, questions: Sequence[Question], retriever: Retriever | None = None) -> None:
    """Raise `ConfigurationError` if a source of gains can't be computed for one of the questions.

    Without a retriever, only the questions are looked at, not the corpus.
    """
    if source not in ORACLES:
        return
    for question in questions:
        check_supporting(question, source)
    if retriever is not None:
        progress = progress_by(source, retriever)
        for question in questions:
            progress(question, ())


def check_source_of_episodes(source: Source, questions: Sequence[Question], retriever: Retriever) -> None:
    """As `check_source`, for gains that are known while an episode runs, without a batch."""
    if source in OF_BATCHES:
        raise ConfigurationError(
            f"information_gain.source={source!r}: is drawn for the searches of a whole batch, and an environment pays "
            f"each search at once; use it in training or with measure_gains; set 'policy' or one of {ORACLES} here"
        )
    check_source(source, questions, retriever)
