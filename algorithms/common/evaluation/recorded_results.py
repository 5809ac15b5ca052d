"""From recorded answers to the rows of an evaluation: which question each of them answers, and their scores."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from algorithms.common.evaluation.recorded_answers import RecordedAnswer, RecordedFile
from algorithms.common.evaluation.scores import QuestionResult
from igsearch_env.benchmark_names import benchmark_in
from igsearch_env.errors import ConfigurationError, QuestionError, UnscorableError
from igsearch_env.question_sources import with_split
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, NO_ANSWER, RETRIEVAL_FAILED

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # data set and id of a question


def own_questions(file: RecordedFile) -> tuple[list[Question], RecordedFile]:
    """The questions of a file with its own golden answers, and the file with their data sets and ids in each row.

    A row without an id gets SPLIT_NUMBER with the number of the row. Questions that can't be scored are left out, with
    a warning. Raises `QuestionError` for a row without golden answers, or if two rows have the same id.
    """
    questions: dict[Key, Question] = {}
    answers = []
    unscorable: list[str] = []
    for number, answer in enumerate(file.answers):
        golds = answer.golden_answers()
        if golds is None:
            raise QuestionError(
                f"{answer.where}: no golden answers; pass the question file as --questions, or add golden_answers"
            )
        if not golds.texts:
            raise QuestionError(f"{answer.where}: no golden answer is left without null and empty ones; add one")
        metadata = with_split({} if answer.split is None else {"split": answer.split}, file.split)
        dataset = answer.dataset or file.dataset
        id = answer.id or f"{metadata.get('split') or Path(file.path).name.split('.')[0]}_{number}"
        text = answer.question or f"(the question of {id})"
        try:
            question = Question(id, text, tuple(golds.texts), dataset, metadata)
        except UnscorableError as error:
            unscorable.append(str(error))
            continue
        except QuestionError as error:
            raise QuestionError(f"{answer.where}: {error}") from error
        if (dataset, id) in questions:
            raise QuestionError(f"{answer.where}: a second answer to question {id!r} of {dataset}; keep one of them")
        questions[dataset, id] = question
        answers.append(replace(answer, dataset=dataset, id=id))
    if unscorable:
        logger.warning("%s: %s questions are left out: %s", file.path, f"{len(unscorable):,}", unscorable[0])
    return list(questions.values()), replace(file, answers=answers)


@dataclass(frozen=True, slots=True)
class RecordedResults:
    """Rows in the order of the questions; `missing`: questions without an answer, by data set; `extra`: answers to
    other questions."""

    rows: list[QuestionResult]
    missing: Counter[str]
    extra: int


def score_recorded(questions: Sequence[Question], file: RecordedFile) -> RecordedResults:
    """Score the recorded answers to the questions.

    An answer belongs to the question of its data set and id, if the texts of both, where the row has one, are equal;
    else to the question of its text, in order where a text occurs several times. Texts are compared without
    differences in white space and without a question mark at the end, which Search-R1 adds.

    A question without an answer counts as wrong. Answers to other questions are counted. Raises `ConfigurationError`
    for a second answer to a question, an answer that could be to questions of several data sets, and if a data set
    has no answer at all.
    """
    index = _Index(questions)
    found: dict[Key, RecordedAnswer] = {}
    extra = 0
    for answer in file.answers:
        question = index.find(answer, found)
        if question is None:
            extra += 1
            continue
        key = (question.dataset, question.id)
        if key in found:
            raise ConfigurationError(
                f"{answer.where}: a second answer to question {question.id!r} of {question.dataset}, the first is "
                f"{found[key].where}; keep one of them"
            )
        found[key] = answer
    rows = [_row(question, found.get((question.dataset, question.id))) for question in questions]
    missing = Counter(question.dataset for question in questions if (question.dataset, question.id) not in found)
    for dataset, count in Counter(question.dataset for question in questions).items():
        if missing[dataset] == count:
            raise ConfigurationError(
                f"{file.path}: no answer to any of the {count:,} questions of {dataset}; pass only questions that it "
                "answers, and check that its ids or its questions are those of the question file"
            )
    return RecordedResults(rows, +missing, extra)


def _row(question: Question, answer: RecordedAnswer | None) -> QuestionResult:
    if answer is None:
        return QuestionResult.scored(question, None, None, [], NO_ANSWER)
    stop = ANSWERED if answer.prediction is not None else answer.stop_reason or NO_ANSWER
    if answer.stop_reason == RETRIEVAL_FAILED:
        stop = RETRIEVAL_FAILED
    return QuestionResult.scored(question, answer.prediction, answer.searches, answer.queries, stop)


class _Index:
    """Questions by id and by text."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.datasets = dict.fromkeys(question.dataset for question in questions)
        self.by_key = {(question.dataset, question.id): question for question in questions}
        self.by_text: dict[str, list[Question]] = {}
        for question in questions:
            self.by_text.setdefault(_plain(question.text), []).append(question)

    def find(self, answer: RecordedAnswer, used: dict[Key, RecordedAnswer]) -> Question | None:
        """The question of an answer; None if it is to none of them. Of several with its text, the first unused one."""
        text = None if answer.question is None else _plain(answer.question)
        if answer.id is not None:
            candidates = (self.by_key.get((dataset, answer.id)) for dataset in self._datasets(answer))
            agreeing = [q for q in candidates if q is not None and (text is None or _plain(q.text) == text)]
            if agreeing:
                return self._only(agreeing, answer)
        if text is None:
            return None
        datasets = set(self._datasets(answer))
        same = [question for question in self.by_text.get(text, []) if question.dataset in datasets]
        unused = [question for question in same if (question.dataset, question.id) not in used]
        return self._only(unused or same, answer) if same else None

    def _datasets(self, answer: RecordedAnswer) -> Iterator[str]:
        """The data sets that an answer may be of: its own, or all if its name is not that of one."""
        if answer.dataset in self.datasets:
            yield answer.dataset
        elif answer.dataset is None or benchmark_in(answer.dataset) is None:
            yield from self.datasets

    @staticmethod
    def _only(questions: list[Question], answer: RecordedAnswer) -> Question:
        if len(names := {question.dataset for question in questions}) > 1:
            raise ConfigurationError(
                f"{answer.where}: may answer a question of {' or of '.join(sorted(names))}; add a field dataset to it"
            )
        return questions[0]


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix("?").rstrip()
