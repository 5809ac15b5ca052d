"""Questions. All rows of all sources (`question_sources.py`) pass the same checks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igsearch_env.errors import ConfigurationError, QuestionError, UnscorableError
from igsearch_env.question_sources import LocalSource, open_source, split_of_id, with_split
from igsearch_env.rewards import normalize_answer

logger = logging.getLogger(__name__)
_SEARCH_R1 = ("data_source", "ability", "reward_model", "extra_info")


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `golden_answers`: accepted answers; information gain scores the first one.

    Answers that normalise to nothing ("*", "The A") are left out, since an empty prediction would equal them. Raises
    `QuestionError` if the text is empty, or if no answer is left.
    """

    id: str
    text: str
    golden_answers: tuple[str, ...]
    dataset: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise QuestionError(f"question {self.id!r}: its text is empty; add a text or remove the question")
        answers = self.golden_answers
        if isinstance(answers, str) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise QuestionError(
                f"question {self.id!r}: golden_answers is {answers!r}; "
                "it must be a tuple of at least one answer, none of them empty"
            )
        if not all(map(normalize_answer, answers)):
            left = tuple(filter(normalize_answer, answers))
            if not left:
                raise UnscorableError(
                    f"question {self.id!r}: golden_answers is {answers!r}; without punctuation and articles nothing is "
                    "left of them, so an empty answer would be right; add another answer or remove the question"
                )
            object.__setattr__(self, "golden_answers", left)

    @property
    def split(self) -> str | None:
        """The split named in the metadata, else in the id (`dev_17`); None if neither names one."""
        named = self.metadata.get("split")
        if named is not None:
            return str(named)
        return split_of_id(self.id)

    @property
    def supporting_titles(self) -> tuple[str, ...]:
        """Titles of the pages that hold the answer and what leads to it; empty where the data do not name them."""
        return tuple(dict.fromkeys(self.metadata.get("supporting_titles") or ()))


def load_questions(source: str | Path) -> list[Question]:
    """Load questions from a .jsonl, .jsonl.gz or .parquet file, a folder written by `save_to_disk` of the datasets
    library, or the Hub (hf:REPO/CONFIG:SPLIT). PATH:SPLIT and PATH:SPLIT[A:B] select rows of a file or folder.

    A row without `dataset` gets the name of the file, the folder or the Hub configuration as its data set
    (`nq.test.jsonl` and `nq/test.jsonl`: nq). Raises `QuestionError`, naming source and row, for a malformed
    row, empty golden answers or a repeated id, or if no row is selected, and `ConfigurationError` if a library is
    missing.

    Golden answers that normalise to nothing are left out, as are questions with no other answer; the log says how many.
    """
    rows, dataset = open_source(source)
    questions: list[Question] = []
    unscorable: list[str] = []
    answers = 0
    first: dict[tuple[str, str], str] = {}
    for where, row in rows:
        try:
            question = _question(row, dataset, where)
        except UnscorableError as error:
            unscorable.append(str(error))
            continue
        answers += len(_plain(row)["golden_answers"]) > len(question.golden_answers)
        key = (question.dataset, question.id)
        if key in first:
            place = first[key].rpartition(", ")[2]
            raise QuestionError(f"{where}: id {question.id!r} is already used on {place}; ids must be unique")
        first[key] = where
        questions.append(question)
    if not questions:
        reason = f" with an answer that can be scored ({unscorable[0]})" if unscorable else ""
        raise QuestionError(f"{source}: contains no questions{reason}; at least one is required")
    if answers:
        logger.warning("%s: answers that normalise to nothing are left out of %s questions", source, f"{answers:,}")
    if unscorable:
        logger.warning("%s: %s questions are left out: %s", source, f"{len(unscorable):,}", unscorable[0])
    return _selected(questions, source)


def _selected(questions: list[Question], source: str | Path) -> list[Question]:
    """The split and the part of it that a local source names."""
    if str(source).startswith("hf:"):
        return questions
    local = LocalSource.read(source)
    if local.split is None:
        return questions
    of_split = [question for question in questions if question.split == local.split]
    selected = of_split[local.start : local.stop]
    if not selected:
        counts = Counter(question.split or "unnamed" for question in questions)
        held = ", ".join(f"{count:,} of {name}" for name, count in sorted(counts.items()))
        rows = f"rows [{local.start or 0}:{'' if local.stop is None else local.stop}]" if of_split else "rows"
        raise QuestionError(
            f"{source}: no {rows} of split {local.split!r} (it has {held}); name a split that the file has, or give "
            "the file alone for all of its rows"
        )
    return selected


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
        raise ConfigurationError(f"where={condition!r}: no question matches; known keys: {', '.join(known)}")
    return chosen


# ---------------------------------------------------------------- fields of a row


def question_row(question: Question) -> dict[str, Any]:
    """The row of a question, which `load_questions` reads back."""
    fields = {"id": question.id, "question": question.text, "golden_answers": list(question.golden_answers)}
    return {**fields, "dataset": question.dataset, **question.metadata}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of Search-R1 to FlashRAG's fields; any other row is returned unchanged."""
    if "reward_model" not in row:
        return row
    plain = {key: value for key, value in row.items() if key not in _SEARCH_R1}
    if row.get("data_source") is not None:
        plain.setdefault("dataset", row["data_source"])
    if row.get("golden_answers") is None:
        target = _inside(row, "reward_model", "ground_truth", "target")
        plain["golden_answers"] = [target] if isinstance(target, str) else target
    return with_split(plain, _inside(row, "extra_info", "split"))


def _inside(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _question(row: dict[str, Any], default_dataset: str, where: str) -> Question:
    searchr1 = "reward_model" in row
    row = _plain(row)
    for name in ("id", "question", "golden_answers"):
        if row.get(name) is None:
            other = " or reward_model.ground_truth.target" if name == "golden_answers" and searchr1 else ""
            raise QuestionError(f"{where}: no field {name!r}{other} (found {sorted(row)}); add it")
    for name in ("id", "question", "dataset"):
        value = row.get(name, "")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise QuestionError(f"{where}: {name} is {str(value)[:80]!r}; it must be a string")
    answers = row["golden_answers"]
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        raise QuestionError(f"{where}: golden_answers is {answers!r}; it must be a list of strings")
    titles = row.get("supporting_titles") or []
    if not isinstance(titles, list) or not all(isinstance(title, str) and title.strip() for title in titles):
        raise QuestionError(
            f"{where}: supporting_titles is {str(titles)[:80]!r}; it must be a list of strings, none of them empty"
        )
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
        raise type(error)(f"{where}: {error}") from error
