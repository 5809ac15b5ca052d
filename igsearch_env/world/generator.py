"""A seeded generator of small encyclopaedias and of questions about them.

Kinds: people, cities, countries, works, companies. One passage per fact. Names are confusable on purpose (people
share first and last names, places share stems), some entities have a second name, and each fact is worded in one
of several ways. Seven question families, three single-hop and four multi-hop:

    birthplace          person -> city                      "Where was P born?"
    author              work -> person                      "Who wrote W?"
    occupation          person or nickname -> occupation    "What did P work as?"
    author_birthplace   work -> person -> city              "Where was the author of W born?"
    founder_occupation  company -> person -> occupation     "What did the founder of C work as?"
    birth_country       person -> city -> country           "In which country was P born?"
    author_country      work -> person -> city -> country   "In which country was the author of W born?"
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from igsearch_env.errors import ConfigurationError
from igsearch_env.question_sources import SPLITS
from igsearch_env.questions import Question
from igsearch_env.world import names
from igsearch_env.world.wordings import CHAINS, FAMILIES, NICKNAMED, RENAMED, WORDINGS
from retrievers.base import Passage

TEST_QUESTIONS = 100  # per family
DEV_QUESTIONS = 30  # per family


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of reasoning: the passage `passage_id` says that `relation` of `entity` is `answer`."""

    entity: str
    relation: str
    answer: str
    passage_id: str


@dataclass
class World:
    """A generated encyclopaedia: `passages`, and `questions[split]` (families interleaved)."""

    seed: int
    passages: list[Passage] = field(default_factory=list)
    facts: dict[str, Hop] = field(default_factory=dict)  # by passage id
    questions: dict[str, list[Question]] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """Passages by id."""
        return {p.id: p for p in self.passages}

    def evidence(self, question: Question) -> list[Passage]:
        """The passages that answer a question, in hop order."""
        return [self.by_id[hop.passage_id] for hop in question.metadata["hops"]]


def _unique_names(rng: random.Random, count: int, *patterns: tuple[Sequence[str], ...]) -> list[str]:
    """`count` distinct names from the first pattern (word lists to combine) with room for 1.5 times as many."""
    for pattern in patterns:
        capacity = math.prod(len(words) for words in pattern)
        if capacity >= 1.5 * count or (capacity >= count and pattern is patterns[-1]):
            indices = rng.sample(range(capacity), count)
            return [_combine(pattern, index) for index in indices]
    raise ConfigurationError(
        f"{count} names of one kind needed, more than the word lists can form; generate a smaller world"
    )


def _combine(pattern: tuple[Sequence[str], ...], index: int) -> str:
    parts = []
    for words in reversed(pattern):
        index, i = divmod(index, len(words))
        parts.append(words[i])
    return " ".join(reversed(parts))


class _Writer:
    """Writes one passage per fact and records which passage states it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sentences: list[tuple[str, str]] = []
        self.facts: dict[tuple[str, str], tuple[str, int]] = {}

    def fact(self, subject: str, relation: str, obj: str, mention: str | None = None) -> None:
        """Write a passage that states a fact. `mention`: how the text names the subject, if not by its plain name."""
        sentence = self.rng.choice(WORDINGS[relation]).format(s=mention or subject, o=obj)
        self.facts[subject, relation] = (obj, len(self.sentences))
        self.sentences.append((subject, sentence[0].upper() + sentence[1:]))


def generate_world(seed: int = 0, passages: int = 3000) -> World:
    """Generate a world of about `passages` passages (within 2%), at least 600. The same seed gives the same world."""
    if passages < 600:
        raise ConfigurationError(f"passages={passages}: a world needs at least 600 to have all seven families")
    rng = random.Random(f"world {seed} {passages}")
    # A person has 5 passages, a work, a company and a city 2, a country 1.
    people_count = works_count = companies_count = round(passages * 0.102)
    cities_count = round(passages * 0.0333)
    countries_count = min(round(passages * 0.01), 400)

    people = _unique_names(
        rng,
        people_count,
        (names.FIRST_NAMES, names.LAST_NAMES),
        (names.FIRST_NAMES, names.FIRST_NAMES, names.LAST_NAMES),
    )
    all_places = _unique_names(
        rng,
        cities_count + cities_count // 4,
        (names.PLACES,),
        (names.PLACE_QUALIFIERS, names.PLACES),
        (names.PLACE_QUALIFIERS, names.PLACES, names.PLACES),
    )
    cities, second_names = all_places[:cities_count], all_places[cities_count:]
    countries = _unique_names(rng, countries_count, (names.COUNTRIES,), (names.PLACE_QUALIFIERS, names.COUNTRIES))
    works = _unique_names(
        rng,
        works_count,
        (("The",), names.MOODS, names.THINGS),
        (("The",), names.MOODS, names.THINGS, ("of",), names.PLACES),
        (("The",), names.MOODS, names.THINGS, ("of",), names.MOODS, names.PLACES),
    )
    companies = _unique_names(
        rng,
        companies_count,
        (names.BRANDS, names.TRADES),
        (names.BRANDS, names.TRADES, ("of",), names.PLACES),
    )
    nicknames = _unique_names(
        rng,
        people_count // 3,
        (names.COLOURS, names.ANIMALS),
        (names.COLOURS, names.MOODS, names.ANIMALS),
        (names.COLOURS, names.MOODS, names.ANIMALS, ("of",), names.PLACES),
    )
    nickname_of = dict(zip(rng.sample(people, len(nicknames)), nicknames, strict=True))
    second_name_of = dict(zip(rng.sample(cities, len(second_names)), second_names, strict=True))

    writer = _Writer(rng)
    # The next in a shuffled circle, so that nobody is married to or taught by themselves.
    circle = rng.sample(people, len(people))
    next_of = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    for person in people:
        nickname = nickname_of.get(person)
        writer.fact(person, "born", rng.choice(cities))
        mention = NICKNAMED.format(s=person, n=nickname) if nickname else None
        writer.fact(person, "occupation", rng.choice(names.OCCUPATIONS), mention)
        writer.fact(person, "spouse", next_of[person])
        writer.fact(person, "residence", rng.choice(cities))
        writer.fact(person, "teacher", next_of[next_of[person]])
    for city in cities:
        second_name = second_name_of.get(city)
        mention = RENAMED.format(s=city, n=second_name) if second_name else None
        writer.fact(city, "country", rng.choice(countries), mention)
        writer.fact(city, "river", rng.choice(names.RIVERS))
    for country in countries:
        writer.fact(country, "capital", rng.choice(cities))
    for work in works:
        writer.fact(work, "author", rng.choice(people))
        writer.fact(work, "hero", rng.choice(names.OCCUPATIONS))
    for company in companies:
        writer.fact(company, "founder", rng.choice(people))
        writer.fact(company, "seat", rng.choice(cities))

    order = list(range(len(writer.sentences)))
    rng.shuffle(order)  # so that the position of a passage does not reveal its kind
    world = World(seed)
    id_of = {original: f"w{place}" for place, original in enumerate(order)}
    world.passages = [Passage(id_of[i], *writer.sentences[i]) for i in order]
    world.facts = {
        id_of[i]: Hop(subject, relation, obj, id_of[i]) for (subject, relation), (obj, i) in writer.facts.items()
    }

    starts = {
        "birthplace": people,
        "author": works,
        "occupation": people,
        "author_birthplace": works,
        "founder_occupation": companies,
        "birth_country": people,
        "author_country": works,
    }
    by_family = [
        _split(_family(rng, family, starts[family], writer, id_of, nickname_of, second_name_of), rng)
        for family in FAMILIES
    ]
    for split in SPLITS:
        columns = itertools.zip_longest(*(splits[split] for splits in by_family))
        world.questions[split] = [q for column in columns for q in column if q is not None]
    return world


def _family(
    rng: random.Random,
    family: str,
    starts: Sequence[str],
    writer: _Writer,
    id_of: dict[int, str],
    nickname_of: dict[str, str],
    second_name_of: dict[str, str],
) -> list[Question]:
    relations, wordings = CHAINS[family]
    questions = []
    for number, start in enumerate(starts):
        hops, entity = [], start
        for relation in relations:
            answer, sentence = writer.facts[entity, relation]
            hops.append(Hop(entity, relation, answer, id_of[sentence]))
            entity = answer
        named = nickname_of.get(start, start) if family == "occupation" else start
        golds = (entity, second_name_of[entity]) if entity in second_name_of else (entity,)
        questions.append(
            Question(
                id=f"{family}-{number}",
                text=rng.choice(wordings).format(e=named),
                golden_answers=golds,
                dataset=family,
                metadata={"hops": tuple(hops), "named": named, "supporting_titles": [h.entity for h in hops]},
            )
        )
    return questions


def _split(questions: list[Question], rng: random.Random) -> dict[str, list[Question]]:
    """Shuffle and split: 100 for test, 30 for dev, the rest for train; in small worlds half, a sixth, the rest."""
    rng.shuffle(questions)
    test = min(TEST_QUESTIONS, len(questions) // 2)
    dev = min(DEV_QUESTIONS, len(questions) // 6)
    return {"test": questions[:test], "dev": questions[test : test + dev], "train": questions[test + dev :]}
