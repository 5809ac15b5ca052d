"""Dense rewards in place of the measured information gain: the controls of every algorithm that uses gains.

    shuffled   the measured gains, permuted among all searches of a batch: the right sizes for the wrong searches
    random     log u - log v with u, v uniform in (0, 1]: no information; nothing is scored
    support    oracle: the share of the supporting pages that a search is the first of its episode to find

An oracle knows the progress of an episode, from 0 to 1. Its gain is that of a potential p which is linear in it:

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
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.trajectory import Gain
from retrievers.random_streams import random_stream

Source = Literal["policy", "shuffled", "random", "support"]
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


def oracle_gains(steps: Iterable[SearchStep]) -> list[Gain]:
    """The gain of each search by the supporting pages that its episode has found, before and after it."""
    gains = []
    for step in steps:
        wanted = supporting_pages(step.trajectory.question)
        before = _pages_found(step, step.index) & wanted
        after = _pages_found(step, step.index + 1) & wanted
        gains.append(progress_gain(len(before) / len(wanted), len(after) / len(wanted)))
    return gains


def progress_gain(before: float, after: float) -> Gain:
    """The gain of a search that changes the progress of its episode, in [0, 1]."""
    real, baseline = (math.log(FLOOR + (1 - FLOOR) * progress) for progress in (after, before))
    return Gain(real - baseline, real, baseline)


def supporting_pages(question: Question) -> set[str]:
    """The titles of the supporting pages, normalised. Raises `ConfigurationError` if the data name none."""
    pages = {normalize_answer(title) for title in question.supporting_titles}
    if not pages:
        raise ConfigurationError(
            f"information_gain.source='support': question {question.id!r} of data set {question.dataset!r} has no "
            "supporting_titles; use questions that name them (the bundled world, hotpotqa, 2wikimultihopqa, musique), "
            "or another source"
        )
    return pages


def _pages_found(step: SearchStep, end: int) -> set[str]:
    return {normalize_answer(passage.title) for turn in step.trajectory.turns[:end] for passage in turn.passages}


def check_source(source: Source, questions: Sequence[Question]) -> None:
    """Raise `ConfigurationError` if a source of gains can't be computed for one of the questions."""
    if source == "support":
        for question in questions:
            supporting_pages(question)


def check_source_of_episodes(source: Source, questions: Sequence[Question]) -> None:
    """As `check_source`, for gains that are known while an episode runs, without a batch."""
    if source in OF_BATCHES:
        raise ConfigurationError(
            f"information_gain.source={source!r}: is drawn for the searches of a whole batch, and an "
            "environment pays each search at once; use it in training or with measure_gains; set 'policy' or 'support' "
            "here"
        )
    check_source(source, questions)
