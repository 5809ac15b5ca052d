"""Questions of a family, and their split."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from igsearch_env.world.draft import Asked

TEST_QUESTIONS = 100  # per family
DEV_QUESTIONS = 30  # per family


def ask(
    rng: random.Random,
    family: str,
    starts: Sequence[str],
    chain: tuple[tuple[str, ...], tuple[str, ...]],
    nicknames: Mapping[str, str],
) -> list[Asked]:
    """One question about each entity. `chain`: the relations to the answer, and the wordings of the question.

    `nicknames`: how questions of the family `occupation` name some people.
    """
    relations, wordings = chain
    return [
        Asked(
            number,
            family,
            start,
            relations,
            rng.choice(wordings),
            nicknames.get(start) if family == "occupation" else None,
        )
        for number, start in enumerate(starts)
    ]


def split(questions: list[Asked], rng: random.Random) -> dict[str, list[Asked]]:
    """Shuffle and split: 100 for test, 30 for dev, the rest for train; in small worlds half, a sixth, the rest."""
    rng.shuffle(questions)
    test = min(TEST_QUESTIONS, len(questions) // 2)
    dev = min(DEV_QUESTIONS, len(questions) // 6)
    return {"test": questions[:test], "dev": questions[test : test + dev], "train": questions[test + dev :]}
