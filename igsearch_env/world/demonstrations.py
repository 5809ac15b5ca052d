"""A scripted agent that knows the facts of its world. Its episodes train a policy to read, and to search imperfectly.

`Manner` defines its behaviour. The bundled policy was trained on its demonstrations.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

from igsearch_env.protocols import Answer, Protocol, Search, make_protocol
from igsearch_env.questions import UNKNOWN, Question
from igsearch_env.world import names
from igsearch_env.world.bundled import noisy, world_retriever
from igsearch_env.world.generator import generate_world
from igsearch_env.world.options import PLAIN, WorldOptions
from igsearch_env.world.records import Hop, World
from retrievers.base import Passage, Retriever
from retrievers.random_streams import stream_seed

KEYWORDS = {
    "born": ("born", "birthplace", "born birthplace"),
    "occupation": ("worked", "profession", "worked profession", "occupation"),
    "author": ("novel", "written", "author"),
    "founder": ("founded", "founder", "company founded"),
    "country": ("city in", "country", "city country"),
    "teacher": ("studied under", "teacher", "teacher of"),
    "spouse": ("married", "spouse", "was married to"),
}
VAGUE = {
    "born": ("born city", "birthplace", "where born"),
    "occupation": ("worked", "occupation profession", "work as"),
    "author": ("novel author", "who wrote", "author"),
    "founder": ("founder company", "founder", "who founded"),
    "country": ("country", "which country", "born country"),
    "teacher": ("teacher", "studied under", "who studied under"),
    "spouse": ("spouse", "married", "who was married"),
}

Demonstration = list[tuple[str, bool]]  # an episode as (text, written by the policy)


@dataclass(frozen=True)
class Manner:
    """Behaviour of the demonstrator: fractions of queries by quality (the rest are vague), and when it stops."""

    # Loss weight of the text that the policy only reads. A passage repeats its title, which teaches a small model to
    # copy; but the final policy must not generate the text of the environment.
    observations: float
    drill: float  # fraction of copying drills
    given: float  # fraction of the rest that shows all evidence at once, to train reading
    precise: float  # queries with the entity and the relation
    name: float  # queries with the entity alone
    part: float  # queries with one word of the entity and a keyword
    wrong_entity: float  # queries for a later hop about the entity of the question
    later_hops: float  # factor on `precise` and `name` for all hops after the first
    give_up: float  # probability of a guess after each search that found nothing new


COPYING = Manner(
    observations=0.0, drill=1.0, given=0, precise=0, name=0, part=0, wrong_entity=0, later_hops=1, give_up=0
)
READING = Manner(
    observations=0.5,
    drill=0.15,
    given=0.4,
    precise=0.30,
    name=0.15,
    part=0.15,
    wrong_entity=0.10,
    later_hops=1.0,
    give_up=0.35,
)
BUNDLED = Manner(
    observations=0.0,
    drill=0.05,
    given=0.50,
    precise=0.17,
    name=0.11,
    part=0.12,
    wrong_entity=0.10,
    later_hops=1.0,
    give_up=0.45,
)
COLD = Manner(
    observations=0.0,
    drill=0.0,
    given=0.45,
    precise=0.03,
    name=0.03,
    part=0.14,
    wrong_entity=0.15,
    later_hops=0.8,
    give_up=0.6,
)


def demonstrations(manner: Manner, seed: int, options: WorldOptions = PLAIN) -> Iterator[Demonstration]:
    """An endless stream of demonstrations; a new world every few thousand.

    `options`: each world has some of these, so that a policy can read any mixture of them. Of such worlds no test
    questions are asked, whose wordings are held out.
    """
    rng = random.Random(stream_seed("demonstrations", seed))
    while True:
        number, size = rng.randrange(10**6, 10**9), rng.choice((800, 1500, 3000))
        own = some_of(rng, options)
        world = generate_world(number, size, own)
        retriever = noisy(world_retriever(world), own.noise, number)
        splits = ("train", "dev", "test") if options == PLAIN else ("train", "dev")
        questions = list(itertools.chain(*(world.questions[split] for split in splits)))
        for _ in range(6 * len(questions)):
            if rng.random() < manner.drill:
                yield drill(rng)
                continue
            name = "autorefine" if rng.random() < 0.2 else "search_r1"
            yield demonstrate(rng, manner, world, retriever, rng.choice(questions), make_protocol(name, "bare"))


def some_of(rng: random.Random, options: WorldOptions) -> WorldOptions:
    """Options of which each has its default in a quarter of the draws."""
    given = {f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) != f.default}
    return WorldOptions(**{name: value for name, value in given.items() if rng.random() < 0.75})


def drill(rng: random.Random) -> Demonstration:
    """Twelve pairs of names, then the same pairs in another order; only second names are predictable and trained on."""
    words = rng.sample([*names.FIRST_NAMES, *names.LAST_NAMES, *names.PLACES], 24)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    segments = [("".join(f" {first} {second}" for first, second in pairs), False)]
    for first, second in rng.sample(pairs, len(pairs)):
        segments += [(f" {first}", False), (f" {second}", True)]
    return segments


def demonstrate(
    rng: random.Random, manner: Manner, world: World, retriever: Retriever, question: Question, protocol: Protocol
) -> Demonstration:
    """One demonstrated episode in the format of `protocol`."""
    hops: tuple[Hop, ...] = question.metadata["hops"]
    segments = [(protocol.question_prompt(question.text), False)]
    if rng.random() < manner.given:
        passages = world.evidence(question)
        confusable = world.conflicting(question)
        if confusable:
            passages += rng.sample(confusable, min(len(confusable), 5 - len(passages)))
        passages += rng.sample(world.passages, rng.randint(0, 5 - len(passages)))
        rng.shuffle(passages)
        text = query(rng, manner, question, rng.randrange(len(hops)))
        segments += [(_written(protocol, Search(text)), True), (protocol.observation(passages), False)]
        refined = _refine(protocol, [world.by_id[hops[-1].passage_id]] if hops[-1].passage_id else [])
        return [*segments, (refined + _answer(protocol, question.golden_answers[0]), True)]
    done, shown, pending = 0, list[Passage](), ""
    limit, top_k = rng.randint(1, 5), rng.choice((2, 3, 3, 3, 4))
    for searches in range(1, limit + 1):
        text = query(rng, manner, question, done)
        segments.append((pending + _written(protocol, Search(text)), True))
        passages = retriever.search([text], top_k)[0]
        shown += passages
        observation = protocol.observation(passages) + (protocol.last_call() if searches == limit else "")
        segments.append((observation, False))
        before = done
        ids = {p.id for p in shown}
        while done < len(hops) and hops[done].passage_id in ids:
            done += 1
        found = [world.by_id[h.passage_id] for h in hops[before:done]]
        pending = _refine(protocol, found)
        if done == len(hops):
            segments.append((pending + _answer(protocol, question.golden_answers[0]), True))
            return segments
        if searches == limit or (done == before and rng.random() < manner.give_up):
            break
    segments.append((pending + _answer(protocol, guess(rng, world, question, shown)), True))
    return segments


def query(rng: random.Random, manner: Manner, question: Question, hop_number: int) -> str:
    """One query for a hop, of a quality drawn according to `manner`."""
    hops: tuple[Hop, ...] = question.metadata["hops"]
    hop = hops[hop_number]
    entity = question.metadata["named"] if hop_number == 0 else hop.entity
    factor = 1.0 if hop_number == 0 else manner.later_hops
    keyword = rng.choice(KEYWORDS[hop.relation])
    draw = rng.random()
    for share, text in (
        (manner.precise * factor, f"{entity} {keyword}"),
        (manner.name * factor, entity),
        (manner.part, f"{rng.choice([w for w in entity.split() if w not in ('The', 'the', 'of')])} {keyword}"),
        (manner.wrong_entity * (hop_number > 0), f"{question.metadata['named']} {keyword}"),
    ):
        draw -= share
        if draw < 0:
            return text
    # Mostly the same vague query, so that the single most likely query is a bad one.
    vague = VAGUE[hops[rng.randrange(len(hops))].relation]
    return vague[0] if rng.random() < 0.8 else rng.choice(vague)


def guess(rng: random.Random, world: World, question: Question, shown: list[Passage]) -> str:
    """An answer of the right kind from the passages shown, or `UNKNOWN`: right if no passage has the answer."""
    if UNKNOWN in question.golden_answers:
        return UNKNOWN
    relation = question.metadata["hops"][-1].relation
    kind = {"born": ("born", "residence")}.get(relation, (relation,))
    candidates = [fact.answer for p in shown for fact in world.facts[p.id] if fact.relation in kind]
    candidates = [c for c in candidates if c not in question.golden_answers]
    return rng.choice(candidates) if candidates and rng.random() < 0.2 else UNKNOWN


def _refine(protocol: Protocol, found: list[Passage]) -> str:
    if not protocol.refines:
        return ""
    return protocol.write_refinement(" ".join(p.text for p in found) if found else UNKNOWN) + "\n"


def _answer(protocol: Protocol, text: str) -> str:
    return _written(protocol, Answer(text))


def _written(protocol: Protocol, action: Search | Answer) -> str:
    """An action without the space before its closing tag: one token fewer for the policy to learn."""
    return protocol.write(action).replace(" </", "</")
