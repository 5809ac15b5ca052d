"""Questions as a `datasets.Dataset`, whose rows TRL shuffles and repeats, and the questions of its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.opening import Questions, open_questions
from igsearch_env.questions import Question
from igsearch_env.world.bundled import bundled_world
from retrievers.reading import import_optional

COLUMNS = ("prompt", "id", "dataset", "golden_answers", "metadata")
INSTRUCTION = (
    "Answer the question. Use the search tool to find the facts that you need. Then reply with the answer alone, in as "
    "few words as possible.\n\nQuestion: {question}"
)


def question_dataset(questions: Questions | None = None, *, chat: bool = False) -> Any:
    """A `datasets.Dataset` with one row per question; of its metadata, what JSON can represent.

    Args:
        questions: what `gymnasium.make("IGSearch-v0", questions=...)` accepts; default: the training questions of the
            bundled world.
        chat: write each prompt as a message that asks for tool calls, for `environment_factory`. Otherwise it is the
            question; `IGSearchTrainer` writes the prompts itself.

    Raises `QuestionError` for a source that can't be read, `MissingPackageError` without the package datasets.
    """
    found = open_questions(questions)
    found = bundled_world().questions["train"] if found is None else found
    if not found:
        raise QuestionError("questions is empty: pass at least one Question")
    dataset = import_optional("datasets", "trl", "question_dataset")
    return dataset.Dataset.from_list([_row(question, chat) for question in found])


def _row(question: Question, chat: bool) -> dict[str, Any]:
    plain = {key: value for key, value in question.metadata.items() if _is_plain(value)}
    message = {"role": "user", "content": INSTRUCTION.format(question=question.text)}
    return {
        "prompt": [message] if chat else question.text,
        "question": question.text,
        "id": question.id,
        "dataset": question.dataset,
        "golden_answers": list(question.golden_answers),
        "metadata": json.dumps(plain, ensure_ascii=False),
    }


def _is_plain(value: Any) -> bool:
    """Whether JSON can represent a value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, bool, int, float))


def question_of(row: Mapping[str, Any]) -> Question:
    """The question of a row. Raises `ConfigurationError` unless `question_dataset` made the row."""
    missing = [name for name in (*COLUMNS, "question") if name not in row]
    if missing:
        raise ConfigurationError(
            f"the data set has no column {missing[0]!r} (it has {sorted(map(str, row))}): make it with "
            "integrations.trl.dataset.question_dataset, and leave remove_unused_columns False"
        )
    return Question(
        row["id"], row["question"], tuple(row["golden_answers"]), row["dataset"], json.loads(row["metadata"])
    )


def questions_of(dataset: Any, name: str) -> list[Question]:
    """The questions of a data set. Raises `ConfigurationError` unless it was made by `question_dataset`."""
    if not hasattr(dataset, "column_names") or not isinstance(dataset, Sized) or not isinstance(dataset, Iterable):
        raise ConfigurationError(
            f"{name} is a {type(dataset).__name__}: it must be a datasets.Dataset made by "
            "integrations.trl.dataset.question_dataset"
        )
    if not len(dataset):
        raise ConfigurationError(f"{name} has no rows: give at least one question")
    return [question_of(row) for row in dataset]
