"""Applies `WorldOptions` to a world before it is written.

Each option draws from a stream of its own, so that worlds of one seed differ only in what their options say.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from igsearch_env.world.asking import ask, split
from igsearch_env.world.draft import Designation, Draft, Statement
from igsearch_env.world.hard_wordings import (
    BY_OCCUPATION,
    BY_RESIDENCE,
    DATED,
    DEEP_CHAINS,
    DISTRACTORS,
    FORMER,
    PARAPHRASES,
    QUESTION_PARAPHRASES,
    YEARS,
)
from igsearch_env.world.options import PLAIN, WorldOptions
from igsearch_env.world.wordings import WORDINGS
from retrievers.random_streams import stream_seed

# The kind of the entities that a relation begins at, and of those that it leads to.
STARTS = {"author": "works", "founder": "companies", "born": "people", "occupation": "people"}
OBJECTS = {
    "born": "cities",
    "occupation": "occupations",
    "teacher": "people",
    "spouse": "people",
    "author": "people",
    "founder": "people",
    "country": "countries",
}


def harden(draft: Draft, options: WorldOptions) -> None:
    """Apply all options that are set. The order matters: a fact that is removed has no outdated version."""
    draft.varied = replace(options, noise=0.0) != PLAIN

    def stream(option: str) -> random.Random:
        return random.Random(stream_seed("option of a generated world", draft.seed, draft.size, option))

    _ask_in_depth(draft, options.depth, stream("depth"))
    if options.unanswerable:
        _remove(draft, options.unanswerable, stream("unanswerable"))
    if options.ambiguous:
        _name_alike(draft, options.ambiguous, stream("ambiguous"))
    if options.outdated:
        _contradict(draft, options.outdated, stream("outdated"))
    if options.paraphrased:
        _reword(draft, options.paraphrased, stream("paraphrased"))
    if options.distractors:
        _distract(draft, options.distractors, stream("distractors"))
    if options.facts_per_passage > 1:
        _join(draft, options.facts_per_passage, stream("facts_per_passage"))


def _ask_in_depth(draft: Draft, depth: int, rng: random.Random) -> None:
    for family, chain in DEEP_CHAINS.items():
        starts = draft.kinds[STARTS[chain[0][0]]]
        draft.families[family] = split(ask(rng, family, starts, chain, {}), rng)
    draft.families = {
        family: splits for family, splits in draft.families.items() if len(splits["train"][0].relations) <= depth
    }


def _remove(draft: Draft, share: float, rng: random.Random) -> None:
    """Remove facts until the share of questions is unanswerable; not those of cities, which many questions need."""
    users: dict[int, list[int]] = defaultdict(list)
    total = 0
    for total, (_, asked) in enumerate(draft.asked(), start=1):
        for number in draft.path(asked):
            users[number].append(total)
    facts = [number for number in users if draft.statements[number].relation != "country"]
    rng.shuffle(facts)
    unanswerable: set[int] = set()
    for number in facts:
        if len(unanswerable) >= share * total:
            break
        unanswerable |= set(users[number])
        draft.removed.add(number)


def _name_alike(draft: Draft, share: float, rng: random.Random) -> None:
    """Give pairs of people one name: people without a nickname, all of whose facts are stated and differ."""

    def fact(person: str, relation: str) -> str:
        return draft.statements[draft.stated[person, relation]].object

    def facts(person: str) -> list[str]:
        city = fact(person, "born")
        return [fact(person, "occupation"), fact(person, "residence"), city, fact(city, "country")]

    relations = ("born", "occupation", "residence", "spouse", "teacher")
    left = [
        person
        for person in draft.kinds["people"]
        if draft.statements[draft.stated[person, "occupation"]].mention == "{s}"
        and not any(draft.stated[person, relation] in draft.removed for relation in relations)
    ]
    rng.shuffle(left)
    pairs = round(share * len(draft.kinds["people"]) / 2)
    while left and pairs:
        one = left.pop()
        other = next((p for p in left if all(a != b for a, b in zip(facts(one), facts(p), strict=True))), None)
        if other is None:
            continue
        left.remove(other)
        pairs -= 1
        for person in (one, other):
            occupation, residence, *_ = facts(person)
            draft.namesakes[person] = Designation(
                one, BY_OCCUPATION.format(s=one, o=occupation), BY_RESIDENCE.format(s=one, o=residence)
            )


def _contradict(draft: Draft, share: float, rng: random.Random) -> None:
    """Add outdated versions of facts: dated, both versions with a year, or marked as outdated."""
    for number in sorted({number for _, asked in draft.asked() for number in draft.path(asked)} - draft.removed):
        if rng.random() >= share:
            continue
        current = draft.statements[number]
        value = rng.choice([v for v in draft.kinds[OBJECTS[current.relation]] if v != current.object])
        old = Statement(current.subject, current.relation, value, rng.choice(WORDINGS[current.relation]), outdated=True)
        if rng.random() < 0.5:
            before, after = sorted(rng.sample(YEARS, 2))
            old.frame = rng.choice(DATED).format(year=before)
            current.frame = rng.choice(DATED).format(year=after)
        else:
            old.frame = rng.choice(FORMER)
        draft.add(old, rng.uniform(0, draft.base))


def _reword(draft: Draft, share: float, rng: random.Random) -> None:
    splits: dict[int, set[str]] = defaultdict(set)
    for part, asked in draft.asked():
        for number in draft.path(asked):
            splits[number].add(part)
        if rng.random() < share:
            asked.wording = rng.choice(QUESTION_PARAPHRASES[asked.family][part == "test"])
            asked.paraphrased = True
    for number, statement in enumerate(draft.statements):
        if rng.random() < share:
            current = draft.stated[statement.subject, statement.relation] if statement.outdated else number
            statement.wording = rng.choice(PARAPHRASES[statement.relation][splits[current] == {"test"}])


def _distract(draft: Draft, count: int, rng: random.Random) -> None:
    for kind, relations in DISTRACTORS.items():
        for entity in draft.kinds[kind]:
            for relation, objects, wordings in rng.sample(relations, count):
                value = rng.choice([v for v in _few(draft.kinds[objects], rng) if v != entity])
                draft.add(Statement(entity, relation, value, rng.choice(wordings)), rng.uniform(0, draft.base))


def _few(values: Sequence[str], rng: random.Random) -> list[str]:
    """Two of many values: one of them differs from any entity."""
    return rng.sample(values, 2)


def _join(draft: Draft, count: int, rng: random.Random) -> None:
    """Passages of several facts of one entity, outdated ones apart from those that hold."""
    groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for number in draft.present():
        groups[draft.statements[number].subject, draft.statements[number].outdated].append(number)
    draft.chunks = []
    for numbers in groups.values():
        rng.shuffle(numbers)
        draft.chunks += [numbers[start : start + count] for start in range(0, len(numbers), count)]
