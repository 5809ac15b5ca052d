"""A world before it is written: statements and questions as data, which options change (`hardening.py`)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from igsearch_env.question_sources import SPLITS
from igsearch_env.questions import UNKNOWN, Question
from igsearch_env.world.records import Hop, World
from retrievers.base import Passage

# What tells a person from a namesake: the residence in what these say of a person, else the occupation, so that each
# question can be asked without its answer, and each hop names the person as the next one does.
_SUBJECT_BY_RESIDENCE = frozenset({"occupation", "residence", "teacher"})
_OBJECT_BY_RESIDENCE = frozenset({"founder"})


@dataclass(slots=True)
class Statement:
    """A sentence: `relation` of `subject` is `object`. The names are those of `Draft`, where each means one entity."""

    subject: str
    relation: str
    object: str
    wording: str
    mention: str = "{s}"
    """How the text names the subject."""
    frame: str = "{}"
    """What surrounds the sentence: a date or a source."""
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class Designation:
    """The name of a person that another person has, too, and what tells them apart."""

    name: str
    occupation: str
    residence: str


@dataclass(slots=True)
class Asked:
    """A question: the relations that lead from the entity `start` to the answer."""

    number: int
    family: str
    start: str
    relations: tuple[str, ...]
    wording: str
    nickname: str | None = None
    """How the question names the entity, if not by its name."""
    paraphrased: bool = False


@dataclass
class Draft:
    """A world of statements; a statement is referred to by its place in `statements`."""

    seed: int
    size: int
    kinds: dict[str, list[str]]
    """All names of people, cities, countries, works, companies, occupations."""
    statements: list[Statement]
    order: list[float]
    """Place of each statement in the corpus."""
    families: dict[str, dict[str, list[Asked]]]
    """By family and split."""
    second_names: dict[str, str]
    stated: dict[tuple[str, str], int] = field(default_factory=dict)
    """The statement that holds for a subject and a relation."""
    removed: set[int] = field(default_factory=set)
    """Statements that no passage makes."""
    namesakes: dict[str, Designation] = field(default_factory=dict)
    chunks: list[list[int]] | None = None
    """Statements of each passage; None: one each."""
    varied: bool = False
    """Whether any option was applied: then the metadata of questions say which they show."""

    def __post_init__(self) -> None:
        self.base = len(self.statements)
        for number, statement in enumerate(self.statements):
            self.stated[statement.subject, statement.relation] = number

    def add(self, statement: Statement, place: float) -> None:
        """Add a statement that answers no question, before the one at `place` of the corpus."""
        self.statements.append(statement)
        self.order.append(place)

    def asked(self) -> Iterator[tuple[str, Asked]]:
        """All questions, each with its split."""
        for splits in self.families.values():
            for split in SPLITS:
                yield from ((split, question) for question in splits[split])

    def path(self, asked: Asked) -> list[int]:
        """The statements that lead to the answer of a question, up to the first that no passage makes."""
        numbers, entity = [], asked.start
        for relation in asked.relations:
            numbers.append(self.stated[entity, relation])
            if numbers[-1] in self.removed:
                break
            entity = self.statements[numbers[-1]].object
        return numbers

    def present(self) -> list[int]:
        """The statements that some passage makes."""
        return [number for number in range(len(self.statements)) if number not in self.removed]

    # ---------------------------------------------------------------- writing

    def title(self, entity: str) -> str:
        """The name of an entity, which another may have, too."""
        return self.namesakes[entity].name if entity in self.namesakes else entity

    def subject(self, entity: str, relation: str) -> str:
        """How a sentence or question about `relation` names its subject."""
        return self._designated(entity, relation in _SUBJECT_BY_RESIDENCE)

    def object(self, entity: str, relation: str) -> str:
        """How a sentence about `relation` names its object."""
        return self._designated(entity, relation in _OBJECT_BY_RESIDENCE)

    def _designated(self, entity: str, by_residence: bool) -> str:
        if entity not in self.namesakes:
            return entity
        person = self.namesakes[entity]
        return person.residence if by_residence else person.occupation

    def sentence(self, statement: Statement) -> str:
        """The text of a statement."""
        mention = statement.mention.format(s=self.subject(statement.subject, statement.relation))
        text = statement.wording.format(s=mention, o=self.object(statement.object, statement.relation))
        if statement.frame != "{}" and not statement.wording.startswith("{"):
            text = text[0].lower() + text[1:]
        text = statement.frame.format(text)
        return text[0].upper() + text[1:]

    def write(self) -> World:
        """The world, with its passages in the order of the corpus."""
        chunks = self.chunks if self.chunks is not None else [[number] for number in self.present()]
        chunks = sorted(chunks, key=lambda chunk: (self.order[chunk[0]], chunk[0]))
        world, id_of = World(self.seed), dict[int, str]()
        for chunk in chunks:
            first = chunk[0]
            id = f"w{self.order[first]}" if first < self.base else f"x{first}"
            id_of |= dict.fromkeys(chunk, id)
            statements = [self.statements[number] for number in chunk]
            text = " ".join(map(self.sentence, statements))
            world.passages.append(Passage(id, self.title(statements[0].subject), text))
            world.facts[id] = tuple(self._hop(statement, id) for statement in statements)
        world.rivals = self._rivals(id_of)
        replaced = {self.stated[s.subject, s.relation] for s in self.statements if s.outdated}
        by_family = [
            {split: [self._question(asked, id_of, replaced) for asked in splits[split]] for split in SPLITS}
            for splits in self.families.values()
        ]
        for split in SPLITS:
            columns = itertools.zip_longest(*(splits[split] for splits in by_family))
            world.questions[split] = [q for column in columns for q in column if q is not None]
        return world

    def _hop(self, statement: Statement, id: str) -> Hop:
        relation = statement.relation
        return Hop(self.subject(statement.subject, relation), relation, self.object(statement.object, relation), id)

    def _rivals(self, id_of: dict[int, str]) -> dict[str, tuple[str, ...]]:
        alike: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number in id_of:
            alike[self.title(self.statements[number].subject), self.statements[number].relation].append(number)
        rivals: dict[str, dict[str, None]] = defaultdict(dict)
        for numbers in alike.values():
            for one, other in itertools.permutations(numbers, 2):
                if id_of[one] != id_of[other]:
                    rivals[id_of[one]][id_of[other]] = None
        return {id: tuple(others) for id, others in rivals.items()}

    def _question(self, asked: Asked, id_of: dict[int, str], replaced: set[int]) -> Question:
        path = self.path(asked)
        statements = [self.statements[number] for number in path]
        unanswerable = path[-1] in self.removed
        hops = [self._hop(statement, id_of.get(number, "")) for number, statement in zip(path, statements, strict=True)]
        answer = statements[-1].object
        second_name = [self.second_names[answer]] if answer in self.second_names else []
        golds = tuple(dict.fromkeys((self.title(answer), hops[-1].answer, *second_name)))
        if unanswerable:
            hops[-1] = Hop(hops[-1].entity, hops[-1].relation, UNKNOWN, "")
            golds = (UNKNOWN,)
        named = asked.nickname or self.subject(asked.start, asked.relations[0])
        titles = [self.title(s.subject) for s, hop in zip(statements, hops, strict=True) if hop.passage_id]
        ids = list(dict.fromkeys(hop.passage_id for hop in hops if hop.passage_id))
        metadata: dict[str, object] = {
            "hops": tuple(hops),
            "named": named,
            "supporting_titles": titles,
            "supporting_ids": ids,
        }
        if self.varied:
            metadata |= {
                "depth": len(asked.relations),
                "unanswerable": unanswerable,
                "ambiguous": any(statement.subject in self.namesakes for statement in statements),
                "outdated": not replaced.isdisjoint(path),
                "paraphrased": asked.paraphrased,
            }
        return Question(
            id=f"{asked.family}-{asked.number}",
            text=asked.wording.format(e=named),
            golden_answers=golds,
            dataset=asked.family,
            metadata=metadata,
        )
