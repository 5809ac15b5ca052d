"""Reads answers that other programs recorded, as plain predictions or as transcripts.

    FlashRAG          a list of {id, question, golden_answers, output: {pred, ...}} (`intermediate_data.json`)
    verl, Search-R1   {input, output, gts, score, step}, {prompt, response, ...} or one text of prompt and response
    this project      a result file of `igsearch evaluate`
    simple            {id, prediction}, also as pred, predicted_answer, output, response or answer; {ID: prediction}

Files may have any format that question files have. Golden answers in the file are read as those of question files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsearch_env.answer_values import AnswerValues, plain_value, text_of
from igsearch_env.benchmark_names import dataset_name, evaluation_split
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols.transcripts import asks, is_transcript, prompt_end, question_in, read_transcript
from igsearch_env.question_shapes import read_shape
from igsearch_env.question_sources import open_source, with_split

logger = logging.getLogger(__name__)
_PREDICTIONS = ("prediction", "pred", "predicted_answer")
_RESPONSES = ("output", "response", "responses", "completion", "generated_text")  # beside a prompt, or alone
_WHOLE = ("transcript", "sequences_str", "sequence", "text")  # prompt and response in one text
_PROMPTS = ("prompt", "input")
_GOLDS = ("golden_answers", "gts", "ground_truth", "reward_model")
_OTHER_GOLDS = ("answers", "possible_answers", "answer", "answer_aliases")  # read as in question files

Row = dict[str, Any]


@dataclass(slots=True)
class RecordedAnswer:
    """One row: what identifies its question, and what was answered. None: the row does not say.

    `golden_answers` is None if the row has none. `searches` is None for a plain prediction.
    """

    where: str
    id: str | None
    dataset: str | None
    split: str | None
    question: str | None
    prediction: str | None
    searches: int | None
    queries: list[str]
    stop_reason: str | None
    golds: Row  # fields of golden answers

    def golden_answers(self) -> AnswerValues | None:
        """The golden answers of the row; None if it has none. Raises `QuestionError` if they can't be read."""
        row, where = self.golds, self.where
        found = next((name for name in _GOLDS if row.get(name) is not None), None)
        if found is not None:
            value = row[found]
            value = value.get("ground_truth", value) if isinstance(value, Mapping) else value
            return AnswerValues.read(value, f"{where}: {found}", ("target",))
        if any(value is not None for value in row.values()):
            return read_shape({"question": "", **row}, where).answers
        return None


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """The rows of a file, and the data set and split that its name says."""

    path: Path
    answers: list[RecordedAnswer]
    dataset: str
    split: str | None


def read_answers(path: Path) -> RecordedFile:
    """Read a file of recorded answers.

    Where any response of a file has tags, all of them are transcripts, so one without an answer in tags has no
    answer. Raises `ConfigurationError` or `QuestionError`, naming the row, for a row without a prediction or response.
    """
    source = open_source(path)
    rows = [part for where, row in source.rows for part in _rows(row, where)]
    if not rows:
        raise ConfigurationError(f"{path}: contains no answers; at least one is required")
    given = [_given(row, where) for where, row in rows]
    tagged = any(isinstance(text, str) and is_transcript(text) for _, text in given)
    kind = "transcripts" if tagged else "predictions"
    fields = ", ".join(dict.fromkeys(name for name, _ in given))
    logger.info("%s: recognised %s with %s %s in %s", path, source.format, f"{len(rows):,}", kind, fields)
    answers = [
        _answer(row, where, name, text, tagged=tagged) for (where, row), (name, text) in zip(rows, given, strict=True)
    ]
    return RecordedFile(path, answers, source.dataset, source.split)


def _rows(row: Row, where: str) -> Iterator[tuple[str, Row]]:
    """The rows of a row: those of a result file or of an object of predictions by id; else itself."""
    datasets = row.get("datasets")
    if isinstance(datasets, dict):
        for name, part in datasets.items():
            rows = part.get("rows") if isinstance(part, dict) else None
            if not isinstance(rows, list):
                raise ConfigurationError(f"{where}: data set {name!r} has no rows; give a file of igsearch evaluate")
            for number, inner in enumerate(rows, start=1):
                yield f"{where}, {name}, row {number}", {**inner, "dataset": name}
        return
    by_id = row["answer"] if isinstance(row.get("answer"), dict) and "question" not in row else row
    fields = {"id", "question", *_PREDICTIONS, *_RESPONSES, *_WHOLE}
    if not fields & row.keys() and by_id and all(not isinstance(value, (list, dict)) for value in by_id.values()):
        for id, prediction in by_id.items():
            yield f"{where}, {id!r}", {"id": id, "prediction": prediction}
        return
    yield where, row


def _given(row: Row, where: str) -> tuple[str, Any]:
    """The field of the prediction or response, and its value."""
    for name in (*_PREDICTIONS, *_RESPONSES, *_WHOLE):
        if name not in row:
            continue
        value = plain_value(row[name])
        if name in _RESPONSES and isinstance(value, dict):  # FlashRAG
            key = next((key for key in _PREDICTIONS if key in value), None)
            if key is None:
                raise ConfigurationError(f"{where}: {name} has no pred (found {sorted(value)}); add it")
            return key, _single(value[key], f"{name}.{key}", where)
        return name, _single(value, name, where)
    if isinstance(row.get("messages"), list):
        said = [m.get("content") for m in row["messages"] if isinstance(m, dict) and m.get("role") == "assistant"]
        return "response", "\n".join(text for text in said if isinstance(text, str))
    if "answer" in row:
        return "answer", _single(plain_value(row["answer"]), "answer", where)
    raise ConfigurationError(
        f"{where}: no prediction (found {sorted(map(str, row))}); add a field prediction, or response for a transcript"
    )


def _single(value: Any, name: str, where: str) -> Any:
    """A value, or the only one of a list; of KILT's output the answer."""
    if isinstance(value, list):
        if len(value) > 1:
            raise ConfigurationError(f"{where}: {name} has {len(value)} predictions; keep one of them per question")
        value = value[0] if value else None
        value = value.get("answer") if isinstance(value, dict) else value
    try:
        return text_of(value)
    except TypeError as error:
        raise ConfigurationError(f"{where}: {name} is {str(value)[:80]!r}; it must be a text") from error


def _answer(row: Row, where: str, name: str, text: str | None, *, tagged: bool) -> RecordedAnswer:
    question = row.get("question") if isinstance(row.get("question"), str) else None
    prompt = next((_prompt(row[key]) for key in _PROMPTS if row.get(key) is not None), None)
    if question is None and prompt is not None:
        question = question_in(prompt)
    if question is None and name in _WHOLE and text:
        question = question_in(text[: prompt_end(text, None)])
    prediction, searches, queries = text, _count(row.get("searches")), _strings(row.get("queries"))
    if text is not None and (is_transcript(text) or (tagged and name in (*_RESPONSES, *_WHOLE))):
        whole = name in _WHOLE or (question is not None and asks(text, question))
        found = read_transcript(text, prompt_end(text, question) if whole else 0)
        prediction, searches, queries = found.answer, len(found.queries), list(found.queries)
    golds = {key: row[key] for key in (*_GOLDS, *_OTHER_GOLDS) if key in row and key != name}
    named = row.get("dataset") or row.get("data_source")
    dataset = dataset_name(named) if isinstance(named, str) else None
    extra = row["extra_info"] if isinstance(row.get("extra_info"), dict) else {}
    id = next((plain_value(row[key]) for key in ("id", "_id", "question_id", "qid") if row.get(key) is not None), None)
    stop = row.get("stop_reason")
    return RecordedAnswer(
        where,
        id=None if id is None else str(id),
        dataset=dataset,
        split=with_split({**row, "id": id}, evaluation_split(extra.get("split"), dataset or "")).get("split"),
        question=question,
        prediction=prediction,
        searches=searches,
        queries=queries,
        stop_reason=stop if isinstance(stop, str) else None,
        golds=golds,
    )


def _prompt(prompt: Any) -> str | None:
    """The text of a prompt; of messages the last one of the user."""
    if isinstance(prompt, list):
        said = [part.get("content") for part in prompt if isinstance(part, dict) and part.get("role") == "user"]
        prompt = said[-1] if said else None
    return prompt if isinstance(prompt, str) else None


def _count(value: Any) -> int | None:
    value = plain_value(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
