"""Questions and search engine of an environment from what a caller passes: objects, or names of files and services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question, load_questions
from igsearch_env.world.bundled import bundled_world, check_same_world, is_world, named_retriever, named_world, world_of
from igsearch_env.world.options import BUNDLED
from retrievers.base import Retriever
from retrievers.open import open_retriever

Questions = str | Path | Sequence[Question | str | Path]
Corpus = str | Path | Retriever


@dataclass(frozen=True, slots=True)
class Opened:
    """Questions and search engine of an environment; None: those of the bundled world."""

    questions: list[Question] | None
    retriever: Retriever | None
    owned: bool = False  # the search engine was opened here

    @classmethod
    def of(cls, questions: Questions | None, retriever: Retriever | None, corpus: Corpus | None) -> Opened:
        """Open what is given by name. Raises the errors of `open_questions` and `open_engine`."""
        found = open_questions(questions)
        sources = [questions] if isinstance(questions, (str, Path)) else questions or ()
        if corpus is None and retriever is None and found is not None:
            corpus = world_of(sources)
        check_same_world(sources, corpus)
        owned = isinstance(corpus, (str, Path)) and not is_world(corpus)
        return cls(found, open_engine(corpus, retriever, found), owned)

    def close(self) -> None:
        """Close the search engine if it was opened here."""
        if self.owned and self.retriever is not None:
            self.retriever.close()


def open_questions(questions: Questions | None) -> list[Question] | None:
    """The questions of a source, of several sources, or given as objects; None for those of the bundled world.

    `world:OPTIONS` is a generated world (`WorldOptions`): its training questions.

    Raises `QuestionError` if a source can't be read, `ConfigurationError` for a value of another type.
    """
    if questions is None or questions == BUNDLED:
        return None
    if isinstance(questions, (str, Path)):
        questions = [questions]
    if not isinstance(questions, Iterable):
        raise ConfigurationError(f"questions is {str(questions)[:80]!r}: it must be a path, or a list of Questions")
    found: list[Question] = []
    for item in questions:
        if isinstance(item, Question):
            found.append(item)
        elif isinstance(item, str) and is_world(item):
            found += named_world(item).questions["train"]
        elif isinstance(item, (str, Path)):
            found += load_questions(item)
        else:
            raise ConfigurationError(
                f"questions has {str(item)[:80]!r}: it must be a Question, or the path of a question file"
            )
    return found


def open_engine(
    corpus: Corpus | None, retriever: Retriever | None, questions: Sequence[Question] | None
) -> Retriever | None:
    """The search engine: `retriever`, or the one over `corpus`; None for that of the bundled world.

    Raises `ConfigurationError` if both are given, or if questions would be asked about passages that do not answer
    them, and the errors of `open_retriever`.
    """
    corpus = None if corpus == BUNDLED else corpus
    for name, value in (("corpus", corpus), ("retriever", retriever)):
        if questions is None and value is not None:
            raise ConfigurationError(f"{name} is given but no questions: pass both, or neither for the bundled world")
    if corpus is not None and retriever is not None:
        raise ConfigurationError("corpus and retriever are given, which are two search engines: pass one of them")
    if isinstance(retriever, (str, Path)):
        raise ConfigurationError(f"retriever is {str(retriever)!r}: it must be a Retriever; pass this name as corpus")
    if isinstance(corpus, (str, Path)):
        return named_retriever(str(corpus)) if is_world(corpus) else open_retriever(str(corpus))
    if corpus is not None and not isinstance(corpus, Retriever):
        raise ConfigurationError(f"corpus is {str(corpus)[:80]!r}: it must be a path, an address or a Retriever")
    found = retriever if corpus is None else corpus
    if found is None and questions is not None:
        check_bundled(questions)
    return found


def check_bundled(questions: Sequence[Question], repair: str = "pass corpus=, ") -> None:
    """Raise `ConfigurationError` for a question that is not of the bundled world, for which no corpus is given.

    `repair`: how a corpus is given, as the beginning of the advice.
    """
    own = {question for split in bundled_world().questions.values() for question in split}
    for question in questions:
        if question not in own:
            raise ConfigurationError(
                f"no corpus is given, and question {question.id!r} of {question.dataset} is not of the bundled world, "
                f"whose passages do not answer it: {repair}a corpus file, an index folder or the address of a "
                "retrieval service"
            )
