"""What a generated world consists of: passages, facts, questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from igsearch_env.questions import Question
from retrievers.base import Passage


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of reasoning: the passage `passage_id` says that `relation` of `entity` is `answer`.

    Of an unanswerable question, the last hop is the one that no passage states: its `passage_id` is "".
    """

    entity: str
    relation: str
    answer: str
    passage_id: str


@dataclass
class World:
    """A generated encyclopaedia: `passages`, and `questions[split]` (families interleaved)."""

    seed: int
    passages: list[Passage] = field(default_factory=list)
    facts: dict[str, tuple[Hop, ...]] = field(default_factory=dict)
    """What each passage says, by its id; outdated statements included."""
    rivals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By the id of a passage: the passages that say otherwise, outdated ones and those about a namesake."""
    questions: dict[str, list[Question]] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """Passages by id."""
        return {p.id: p for p in self.passages}

    def evidence(self, question: Question) -> list[Passage]:
        """The passages that answer a question, in hop order, each once; without the fact that no passage states."""
        ids = dict.fromkeys(hop.passage_id for hop in question.metadata["hops"] if hop.passage_id)
        return [self.by_id[id] for id in ids]

    def conflicting(self, question: Question) -> list[Passage]:
        """The passages that a reader of a question's evidence could confuse with it."""
        evidence = self.evidence(question)
        ids = dict.fromkeys(id for passage in evidence for id in self.rivals.get(passage.id, ()))
        return [self.by_id[id] for id in ids if self.by_id[id] not in evidence]
