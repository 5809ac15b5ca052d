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

import math
import random
from collections.abc import Sequence

from igsearch_env.errors import ConfigurationError
from igsearch_env.world import names
from igsearch_env.world.asking import ask, split
from igsearch_env.world.draft import Draft, Statement
from igsearch_env.world.hardening import STARTS, harden
from igsearch_env.world.options import PLAIN, WorldOptions
from igsearch_env.world.records import World
from igsearch_env.world.wordings import CHAINS, NICKNAMED, RENAMED, WORDINGS


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
    """Draws the wording of one statement per fact."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.statements: list[Statement] = []

    def fact(self, subject: str, relation: str, obj: str, mention: str = "{s}") -> None:
        """State a fact. `mention`: how the text names the subject, if not by its plain name."""
        self.statements.append(Statement(subject, relation, obj, self.rng.choice(WORDINGS[relation]), mention))


def generate_world(seed: int = 0, passages: int = 3000, options: WorldOptions = PLAIN) -> World:
    """Generate a world of about `passages` passages (within 2%), at least 600. The same seed gives the same world.

    `options` add to it and change it (`WorldOptions`); what they do not name is the same in all worlds of a seed.
    """
    draft = draw(seed, passages)
    harden(draft, options)
    return draft.write()


def draw(seed: int, passages: int) -> Draft:
    """The statements and questions of a world without options."""
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
        mention = NICKNAMED.format(s="{s}", n=nickname) if nickname else "{s}"
        writer.fact(person, "occupation", rng.choice(names.OCCUPATIONS), mention)
        writer.fact(person, "spouse", next_of[person])
        writer.fact(person, "residence", rng.choice(cities))
        writer.fact(person, "teacher", next_of[next_of[person]])
    for city in cities:
        second_name = second_name_of.get(city)
        mention = RENAMED.format(s="{s}", n=second_name) if second_name else "{s}"
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

    in_order = list(range(len(writer.statements)))
    rng.shuffle(in_order)  # so that the position of a passage does not reveal its kind
    order: list[float] = [0] * len(in_order)
    for place, number in enumerate(in_order):
        order[number] = place
    kinds = {
        "people": people,
        "cities": cities,
        "countries": countries,
        "works": works,
        "companies": companies,
        "occupations": list(names.OCCUPATIONS),
    }
    families = {
        family: split(ask(rng, family, kinds[STARTS[chain[0][0]]], chain, nickname_of), rng)
        for family, chain in CHAINS.items()
    }
    return Draft(seed, passages, kinds, writer.statements, order, families, second_name_of)
