"""Lists of questions: ids that must be unique, and the choice of questions by their metadata."""

from __future__ import annotations

from collections.abc import Sequence

from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.questions import Question


def check_unique(questions: Sequence[Question], where: str) -> None:
    """Raise `QuestionError` unless every (dataset, id) occurs once, since it identifies a group."""
    seen: set[tuple[str, str]] = set()
    for question in questions:
        key = (question.dataset, question.id)
        if key in seen:
            raise QuestionError(
                f"{where}: the id {question.id!r} occurs twice in data set {question.dataset!r}; ids must be unique"
            )
        seen.add(key)


def where(questions: Sequence[Question], condition: str | None) -> list[Question]:
    """The questions whose metadata match KEY=VALUE, ignoring case (`random500=true`); all of them if None.

    Raises `ConfigurationError` for a malformed condition, or if no question matches.
    """
    if condition is None:
        return list(questions)
    key, equals, value = condition.partition("=")
    if not equals:
        raise ConfigurationError(f"where={condition!r}: must be KEY=VALUE, e.g. random500=true")
    chosen = [question for question in questions if str(question.metadata.get(key)).lower() == value.lower()]
    if not chosen:
        known = sorted({name for question in questions for name in question.metadata})
        raise ConfigurationError(f"where={condition!r}: no question matches; known keys: {', '.join(known) or 'none'}")
    return chosen
