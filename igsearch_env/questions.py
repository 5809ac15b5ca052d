"""Questions. All rows of all sources (`question_sources.py`) and forms (`question_shapes.py`) pass the same checks."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igsearch_env.answer_values import plain_value
from igsearch_env.benchmark_names import benchmark_in, canonical_split, dataset_name, evaluation_split, split_in
from igsearch_env.errors import ConfigurationError, QuestionError, UnscorableError
from igsearch_env.plain import plain
from igsearch_env.question_shapes import WRITTEN, Row, Shaped, is_written, question_rows, read_shape
from igsearch_env.question_sources import LocalSource, Source, open_source, split_of_id, with_split
from igsearch_env.rewards import normalize_answer

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the golden answer of a question that no passage answers


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
        """The split named in the metadata, else in the id (`dev_17`); None if neither names one.

        It is `dev` for a validation split in any spelling.
        """
        named = self.metadata.get("split")
        if named is not None:
            return canonical_split(str(named))
        return split_of_id(self.id)

    @property
    def supporting_titles(self) -> tuple[str, ...]:
        """Titles of the pages that hold the answer and what leads to it; empty where the data do not name them."""
        return tuple(dict.fromkeys(self.metadata.get("supporting_titles") or ()))

    @property
    def supporting_ids(self) -> tuple[str, ...]:
        """Ids of the passages that hold the answer and what leads to it; empty where the data do not name them."""
        return tuple(self.metadata.get("supporting_ids") or ())

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, dataset: str = "custom") -> Question:
        """The question of one row, in any published form that `load_questions` reads, by the same rules.

        A row without an id gets one made of its text, which is the same whenever it is read; a number in `extra_info`
        is used as `load_questions` does. A row that `to_dict` wrote is read as it is. `dataset`: that of a row which
        names none.

        Raises `QuestionError`, naming the field, if the row is malformed, has no question or more than one, or no
        answer that can be scored.
        """
        if not isinstance(dataset, str):
            raise ConfigurationError(f"dataset={dataset!r}: must be a string, the data set of a row that names none")
        if not isinstance(row, Mapping):
            raise QuestionError(f"{_ROW}: {str(row)[:80]!r} is a {type(row).__name__}: the row must be a dictionary")
        if is_written(row):
            return _written(row, _ROW)
        rows = [inner for _, inner in question_rows(dict(row), _ROW)]
        if len(rows) != 1:
            raise QuestionError(
                f"{_ROW}: the row holds {len(rows)} questions: pass a row of one; load_questions reads those of a file"
            )
        source = Source(iter(()), None, dataset, dataset)
        shaped = read_shape(rows[0], _ROW)
        fields = _fields(rows[0], shaped, source, _ROW)
        if not shaped.answerable:
            raise QuestionError(f"{_ROW}: the row is marked as unanswerable, so no answer is right: leave it out")
        if fields["id"] is None:
            digest = hashlib.sha256(fields["question"].encode("utf-8", "surrogatepass")).hexdigest()[:12]
            fields["id"] = _made_id(fields, source, digest if shaped.number is None else shaped.number)
        _check_answered(shaped, fields, _ROW)
        return _question(fields, shaped.answers.texts, _ROW)

    def to_dict(self) -> dict[str, Any]:
        """The question as a row of plain data, which `from_dict` and `load_questions` read back as the same question.

        Metadata, as plain data, stand beside the fields of the question; those with names of these fields are left out.
        `written_by: igsearch` says that the row is to be read as it is: its answers, names and marks are not
        interpreted, as those of published forms are.
        """
        own = {"id": self.id, "question": self.text, "golden_answers": [*self.golden_answers], "dataset": self.dataset}
        return own | WRITTEN | {k: plain(v) for k, v in self.metadata.items() if k not in _OWN}


_ROW = "Question.from_dict"  # the place of a row in messages
_OWN = frozenset({"id", "question", "golden_answers", "dataset", *WRITTEN})  # fields of a row that are not metadata


def load_questions(source: str | Path) -> list[Question]:
    """Load questions from a file or folder in any format and published form, or from the Hub (hf:REPO/CONFIG:SPLIT).

    PATH:SPLIT and PATH:SPLIT[A:B] select rows of a file or folder. `docs/evaluation.md` lists formats and forms, and
    what is read of each; the log says which were recognised. Names of the seven benchmarks are converted to those of
    `question_sets.py`. A row without a data set or split is of those that the name of its file or folder says
    (`nq.test.jsonl`, `nq/test.jsonl`); one without an id gets SPLIT_NUMBER, the number of its row from 0.

    Empty answers, answers that normalise to nothing, rows that are marked as unanswerable or whose answers all
    normalise to nothing, and repetitions of a row are left out; the log says how many.

    Raises `QuestionError`, naming source and row, for a malformed row, a row without an answer or an id of two
    different questions, or if no row is selected, and `ConfigurationError` if a library is missing.
    """
    opened = open_source(source)
    part = LocalSource(Path()) if str(source).startswith("hf:") else LocalSource.read(source)
    reader = _Reader(opened, None if part.split is None else canonical_split(part.split))
    for place, row in opened.rows:
        for where, inner in question_rows(row, place):
            if not reader.is_of_other_split(inner):
                reader.add(inner, where)
    if not reader.splits:
        reason = f" with an answer that can be scored ({reader.unscorable[0]})" if reader.unscorable else ""
        raise QuestionError(f"{source}: contains no questions{reason}; at least one is required")
    questions = list(reader.questions.values())
    selected = questions[part.start : part.stop]
    if not selected:
        held = ", ".join(f"{count:,} of {name}" for name, count in sorted(reader.splits.items()))
        rows = f"rows [{part.start or 0}:{'' if part.stop is None else part.stop}]" if questions else "rows"
        raise QuestionError(
            f"{source}: no {rows} of split {part.split!r} (it has {held}); name a split that the file has, or give "
            "the file alone for all of its rows"
        )
    reader.log(str(source))
    return selected


class _Reader:
    """The questions of a source, or of one split of it, and what was left out. `splits` counts those of all splits."""

    def __init__(self, source: Source, split: str | None) -> None:
        self.source = source
        self.split = split
        self.splits: Counter[str] = Counter()
        self.questions: dict[tuple[str, str], Question] = {}
        self.unscorable: list[str] = []
        self._places: dict[tuple[str, str], str] = {}
        self._numbers: Counter[tuple[str, str | None]] = Counter()
        self._shapes: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def is_of_other_split(self, row: Row) -> bool:
        """Whether a row says that it is of a split that is not read; such a row, often without answers, is counted."""
        if self.split is None or row.get("split") is None or canonical_split(str(row["split"])) == self.split:
            return False
        self.splits[canonical_split(str(row["split"]))] += 1
        return True

    def add(self, row: Row, where: str) -> None:
        """Read a row. Raises `QuestionError` if it is malformed, or if its id is that of another question."""
        if is_written(row):
            question = _written(with_split(row, self.source.split), where)
            self._keep(question, where, "IGSearch")
            return
        shaped = read_shape(row, where)
        fields = _fields(row, shaped, self.source, where)
        split = canonical_split(str(fields["split"])) if fields.get("split") is not None else None
        counted = (fields["dataset"], split)
        number = self._numbers[counted] if shaped.number is None else shaped.number
        self._numbers[counted] += 1
        if not shaped.answerable:
            self._left_out["rows marked as unanswerable"] += 1
            return
        if fields["id"] is None:
            fields["id"] = _made_id(fields, self.source, number)
        _check_answered(shaped, fields, where)
        try:
            question = _question(fields, shaped.answers.texts, where)
        except UnscorableError as error:
            self.unscorable.append(str(error))
            return
        if self._keep(question, where, shaped.shape):
            self._left_out["empty answers"] += shaped.answers.empty
            left = len(shaped.answers.texts) - len(question.golden_answers)
            self._left_out["answers that normalise to nothing"] += left

    def _keep(self, question: Question, where: str, shape: str) -> bool:
        """Whether a question is of the split that is read, and new."""
        self.splits[question.split or "unnamed"] += 1
        if self.split is not None and question.split != self.split:
            return False
        key = (question.dataset, question.id)
        known = self.questions.setdefault(key, question)
        if known != question:
            raise QuestionError(
                f"{where}: id {question.id!r} is already used by another question at {self._places[key]} "
                f"({known.text[:60]!r} {known.golden_answers[:3]}, here {question.text[:60]!r} "
                f"{question.golden_answers[:3]}); ids must be unique: give one of the two another id"
            )
        if key in self._places:
            self._left_out["repeated rows"] += 1
            return False
        self._places[key] = where
        self._shapes[shape] += 1
        return True

    def log(self, source: str) -> None:
        """Log what was recognised, and what was left out."""
        datasets = Counter(question.dataset for question in self.questions.values())
        shapes = " and ".join(self._shapes)
        found = f"{self.source.format} in the form of {shapes}"
        logger.info("%s: recognised %s; questions: %s", source, found, _listed(datasets))
        if self._left_out.total():
            logger.warning("%s: left out: %s", source, _listed(self._left_out))
        if self.unscorable:
            count = f"{len(self.unscorable):,}"
            logger.warning("%s: %s questions are left out: %s", source, count, self.unscorable[0])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _fields(row: Row, shaped: Shaped, source: Source, where: str) -> Row:
    """The row in FlashRAG's fields, without its answers; `id` is None if it has none."""
    for name, value in (("question", shaped.question), ("id", shaped.id), ("dataset", shaped.dataset)):
        if value is None and name == "question":
            raise QuestionError(f"{where}: no field 'question' (found {sorted(map(str, row))}); add it")
        if value is not None and (isinstance(value, bool) or not isinstance(plain_value(value), (str, int))):
            raise QuestionError(f"{where}: {name} is {str(value)[:80]!r}; it must be a string")
    named = None if shaped.dataset is None else str(shaped.dataset)
    dataset = dataset_name(named) if named else source.dataset_at(where)
    if not named and not benchmark_in(dataset) and shaped.benchmark:
        dataset = shaped.benchmark
    id = plain_value(shaped.id)
    fields = {**shaped.rest, "id": None if id is None else str(id), "question": str(shaped.question)}
    if shaped.titles or row.get("supporting_titles") is not None:  # an empty list says that no page answers
        fields["supporting_titles"] = shaped.titles
    for split in (evaluation_split(shaped.split, dataset), split_in(named) if named else None, source.split):
        fields = with_split(fields, split)
    return {**fields, "dataset": dataset}


def _made_id(fields: Row, source: Source, number: int | str) -> str:
    """The id of a row without one: SPLIT_NUMBER, or the benchmark or the name of the source before the number."""
    split = canonical_split(str(fields["split"])) if fields.get("split") is not None else None
    return f"{split or benchmark_in(fields['dataset']) or source.name}_{number}"


def _check_answered(shaped: Shaped, fields: Row, where: str) -> None:
    if not shaped.answers.texts:
        raise QuestionError(
            f"{where}: question {fields['id']!r}: the row has no answer, or only null and empty ones; add one, or "
            "remove the row"
        )


def _written(row: Mapping[str, Any], where: str) -> Question:
    """The question of a row that `Question.to_dict` wrote."""
    return _question(row, plain_value(row["golden_answers"]), where)


def _question(fields: Mapping[str, Any], answers: Sequence[str], where: str) -> Question:
    try:
        return Question(
            id=fields["id"],
            text=fields["question"],
            golden_answers=tuple(answers),
            dataset=fields["dataset"],
            metadata={key: value for key, value in fields.items() if key not in _OWN},
        )
    except QuestionError as error:
        raise type(error)(f"{where}: {error}") from error
