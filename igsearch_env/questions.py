"""Questions and the files that hold them (FlashRAG jsonl: `id`, `question`, `golden_answers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igsearch_env.errors import QuestionError
from retrievers.base import CorpusError
from retrievers.corpus import read_jsonl


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `golden_answers`: accepted answers, the first is the one that IG scores."""

    id: str
    text: str
    golden_answers: tuple[str, ...]
    dataset: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise QuestionError(f"question {self.id!r}: its text is empty; give it one or drop it")
        answers = self.golden_answers
        if isinstance(answers, str) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise QuestionError(
                f"question {self.id!r}: golden_answers is {answers!r}; "
                "it must be a tuple of at least one answer, none of them empty"
            )


def load_questions(path: str | Path) -> list[Question]:
    """Read a question file (.jsonl or .jsonl.gz). `dataset` falls back to the file's name.

    Raises `QuestionError`, naming file and line, for a malformed line, empty golden answers or a repeated id.
    """
    path = Path(path)
    default_dataset = path.name.split(".")[0]
    questions: list[Question] = []
    first: dict[tuple[str, str], int] = {}
    try:
        for number, row in read_jsonl(path):
            question = _question(row, default_dataset, f"{path}, line {number}")
            key = (question.dataset, question.id)
            if key in first:
                raise QuestionError(
                    f"{path}, line {number}: id {question.id!r} stands on line {first[key]} already; ids must be unique"
                )
            first[key] = number
            questions.append(question)
    except CorpusError as error:
        raise QuestionError(str(error)) from error
    if not questions:
        raise QuestionError(f"{path}: no question in it; it needs at least one")
    return questions


def _question(row: dict[str, Any], default_dataset: str, where: str) -> Question:
    for name in ("id", "question", "golden_answers"):
        if row.get(name) is None:
            raise QuestionError(f"{where}: no field {name!r} (found {sorted(row)}); add it")
    answers = row["golden_answers"]
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        raise QuestionError(f"{where}: golden_answers is {answers!r}; it must be a list of strings")
    known = {"id", "question", "golden_answers", "dataset"}
    try:
        return Question(
            id=str(row["id"]),
            text=str(row["question"]),
            golden_answers=tuple(answers),
            dataset=str(row.get("dataset", default_dataset)),
            metadata={key: value for key, value in row.items() if key not in known},
        )
    except QuestionError as error:
        raise QuestionError(f"{where}: {error}") from error


def check_unique(questions: Sequence[Question], where: str) -> None:
    """Raise `QuestionError` unless every (dataset, id) occurs once: groups are told apart by it."""
    seen: set[tuple[str, str]] = set()
    for question in questions:
        key = (question.dataset, question.id)
        if key in seen:
            raise QuestionError(
                f"{where}: the id {question.id!r} occurs twice in data set {question.dataset!r}; ids must be unique"
            )
        seen.add(key)
