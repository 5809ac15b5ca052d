"""What a row of each published form of question files holds.

    FlashRAG             question, golden_answers
    Search-R1, verl      reward_model.ground_truth or ground_truth; question, extra_info.question or prompt
    HotpotQA             question, answer, supporting_facts, context; 2WikiMultiHopQA is the same
    MuSiQue              question, answer, answer_aliases, paragraphs
    TriviaQA             Question, Answer {Value, Aliases} inside Data; on the Hub question, answer {value, aliases}
    PopQA                question, possible_answers
    SQuAD                question, answers {text}; in the official file inside data, paragraphs, qas
    DPR                  question, answers
    KILT                 input, output [{answer, provenance}]
    NQ-open, Bamboogle   question, answer, both in any case
    IGSearch             written_by: igsearch, as `Question.to_dict` writes it: read as it is

A row of another form is an error that names its fields. Contexts and passages are not kept, titles of supporting
pages are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from igsearch_env.answer_values import AnswerValues, plain_value
from igsearch_env.errors import QuestionError
from igsearch_env.protocols import PROTOCOLS
from igsearch_env.protocols.transcripts import MARK
from retrievers.base import CorpusError
from retrievers.corpora import shapes
from retrievers.reading import FileError, parse_json

Row = dict[str, Any]

ACCEPTED = (
    "golden_answers, reward_model.ground_truth, ground_truth, answer, answers, possible_answers, or input with output"
)
# Contexts, prompts of other frameworks and other fields that are long or already read.
_UNREAD = frozenset(
    (
        *("prompt", "metadata", "context", "contexts", "paragraphs", "supporting_facts", "retrieval_result"),
        *("positive_ctxs", "negative_ctxs", "hard_negative_ctxs", "entity_pages", "search_results"),
        *("data_source", "ability", "reward_model", "ground_truth", "extra_info", "agent_name", "passage"),
    )
)
_READ = frozenset(("id", "question", "golden_answers", "dataset", "supporting_titles", "written_by"))
_IDS = ("id", "_id", "question_id", "questionid", "qid")
WRITTEN = {"written_by": "igsearch"}  # in the rows of `Question.to_dict`
FLASHRAG, VERL = "FlashRAG", "Search-R1 or verl"


@dataclass(slots=True)
class Shaped:
    """A question row, read: fields that the row lacks are None."""

    shape: str
    answers: AnswerValues
    question: Any = None
    id: Any = None
    number: int | None = None  # of the row in the data set and split that it was made of
    dataset: Any = None
    split: Any = None  # of what the row says about the source that it was made of
    benchmark: str | None = None  # by the fields of the form
    titles: list[str] = field(default_factory=list)
    rest: Row = field(default_factory=dict)
    answerable: bool = True


def is_written(row: Mapping[str, Any]) -> bool:
    """Whether `Question.to_dict` wrote a row, and its fields have kept their types (CSV has only text)."""
    answers = plain_value(row.get("golden_answers"))
    return (
        all(row.get(name) == value for name, value in WRITTEN.items())
        and all(isinstance(row.get(name), str) for name in ("id", "question", "dataset"))
        and isinstance(answers, list)
        and all(isinstance(answer, str) for answer in answers)
    )


def question_rows(row: Row, where: str) -> Iterator[tuple[str, Row]]:
    """The question rows in a row: itself, or those of a document of TriviaQA (`Data`) or SQuAD (`data`)."""
    if "question" in row or "Question" in row or "input" in row:
        yield where, row
        return
    for name in ("Data", "data", "paragraphs", "qas"):
        parts = row.get(name)
        if isinstance(parts, list):
            for number, part in enumerate(parts, start=1):
                place = f"{where}, {name} {number}"
                if not isinstance(part, dict):
                    raise QuestionError(f"{place}: {str(part)[:80]!r} is not an object; correct the row")
                # The title of a page of SQuAD, for its questions, and the split of the file.
                outer: Row = {key: row[key] for key in ("title", "split") if key in row}
                yield from question_rows({**outer, **part}, place)
            return
    yield where, row


def read_shape(row: Row, where: str) -> Shaped:
    """Recognise a row by its fields. Raises `QuestionError`, naming place and field, for a row of no known form."""
    if "question" not in row and ("Question" in row or "QUESTION" in row):
        row = {key.lower(): value for key, value in row.items()}
    shaped = _shape(row, where)
    if shaped.shape not in (FLASHRAG, VERL):  # of these, answers stay as they were published
        shaped.answers.texts = list(dict.fromkeys(text.strip() for text in shaped.answers.texts))
    if shaped.id is None:
        shaped.id = next((row[name] for name in _IDS if plain_value(row.get(name)) not in (None, "")), None)
    if shaped.question is None:
        shaped.question = row.get("question")
    if shaped.dataset is None:
        shaped.dataset = row.get("dataset")
    if not shaped.titles and row.get("supporting_titles") is not None:
        shaped.titles = _checked_titles(row["supporting_titles"], where)
    if row.get("answerable") is False or row.get("is_impossible") is True:
        shaped.answerable = False
    return shaped


def _shape(row: Row, where: str) -> Shaped:
    if row.get("golden_answers") is not None or "reward_model" in row or "ground_truth" in row:
        return _flashrag(row, where)
    if "input" in row and isinstance(row.get("output"), list):
        return _kilt(row, where)
    answers, answer = row.get("answers"), row.get("answer")
    rest = {key: value for key, value in row.items() if _is_short(value) and key not in _IDS}
    for name in ("question", "answer", "answers", "possible_answers", "dataset", "context"):
        rest.pop(name, None)
    if isinstance(answers, Mapping) or (isinstance(answers, list) and any(isinstance(a, Mapping) for a in answers)):
        found = AnswerValues.read(answers, f"{where}: answers", ("text",))
        titles = _one_title(row.get("title"))
        return Shaped("SQuAD", found, titles=titles, rest=rest, answerable=found.given > 0)
    if answers is not None:
        titles = [title for passage in _list(row.get("positive_ctxs"))[:1] for title in _one_title(passage)]
        return Shaped("DPR", AnswerValues.read(answers, f"{where}: answers"), titles=titles, rest=rest)
    if row.get("possible_answers") is not None:
        found = AnswerValues.read(row["possible_answers"], f"{where}: possible_answers")
        return Shaped("PopQA", found, benchmark="popqa", titles=_one_title(row.get("s_wiki_title")), rest=rest)
    if isinstance(answer, Mapping):
        lowered = {str(key).lower(): value for key, value in answer.items()}
        found = AnswerValues.read(lowered, f"{where}: answer", ("value", "aliases"))
        return Shaped("TriviaQA", found, benchmark="triviaqa", rest=rest)
    if answer is None:
        if row.get("answerable") is False:
            return Shaped("MuSiQue", AnswerValues())
        if unset := [name for name in ("golden_answers", "answers", "possible_answers", "answer") if name in row]:
            raise QuestionError(
                f"{where}: {unset[0]} is null; add an answer or remove the row, or name a split with answers (PATH:dev)"
            )
        raise QuestionError(f"{where}: no field with answers (found {sorted(map(str, row))}); add one of {ACCEPTED}")
    found = AnswerValues.read([answer, row.get("answer_aliases") or []], f"{where}: answer")
    titles = _supporting_titles(row, where)
    rest = {key: value for key, value in rest.items() if key != "answerable"}
    if "paragraphs" in row:
        return Shaped("MuSiQue", found, benchmark=shapes.MUSIQUE, titles=titles, rest=rest)
    if "supporting_facts" in row or "context" in row:
        benchmark = shapes.dataset_of(row, shapes.CONTEXT)
        return Shaped("HotpotQA or 2WikiMultiHopQA", found, benchmark=benchmark, titles=titles, rest=rest)
    return Shaped("question and answer", found, titles=titles, rest=rest)


def _flashrag(row: Row, where: str) -> Shaped:
    """FlashRAG's fields, or those that Search-R1 and verl put them into."""
    extra = _mapping(row.get("extra_info"), f"{where}: extra_info")
    verl = "reward_model" in row or "ground_truth" in row
    value, name = row.get("golden_answers"), "golden_answers"
    if value is None:
        value, name = row.get("ground_truth"), "ground_truth"
        if value is None:
            name = "reward_model.ground_truth"
            value = _mapping(row.get("reward_model"), f"{where}: reward_model").get("ground_truth")
        if value is None or (isinstance(value, Mapping) and value.get("target") is None):
            raise QuestionError(
                f"{where}: no field 'golden_answers' or reward_model.ground_truth.target (found {sorted(row)}); add it"
            )
    question = row.get("question")
    if question is None and verl:
        question = extra.get("question") or _asked(row.get("prompt"), where)
    index = plain_value(extra.get("index"))
    numbered = isinstance(index, int) and not isinstance(index, bool)
    return Shaped(
        VERL if verl else FLASHRAG,
        AnswerValues.read(value, f"{where}: {name}", ("target",)),
        question=question,
        id=None if numbered or any(row.get(id) is not None for id in _IDS) else index,
        number=index if numbered else None,
        dataset=row.get("data_source") if row.get("dataset") is None else row["dataset"],
        split=extra.get("split"),
        titles=[] if row.get("supporting_titles") else _titles_beside(row, where),
        rest={key: value for key, value in row.items() if key not in _UNREAD and key not in _READ},
    )


def _kilt(row: Row, where: str) -> Shaped:
    outputs = [output for output in row["output"] if isinstance(output, Mapping)]
    answers = [output["answer"] for output in outputs if output.get("answer") is not None]
    if not answers:
        raise QuestionError(f"{where}: no answer in output; add one (files of test splits have none)")
    pages = [title for output in outputs for page in _list(output.get("provenance")) for title in _one_title(page)]
    titles = list(dict.fromkeys(pages))
    return Shaped("KILT", AnswerValues.read(answers, f"{where}: output"), question=row["input"], titles=titles)


def _asked(prompt: Any, where: str) -> str | None:
    """The question in a prompt: messages or a text. It is the line behind the last `Question:`, or the whole text.

    Raises `QuestionError` if neither is clear.
    """
    text = prompt
    if isinstance(prompt, list):
        said = [part.get("content") for part in prompt if isinstance(part, Mapping) and part.get("role") == "user"]
        text = said[-1] if said else None
    if not isinstance(text, str) or not text.strip():
        return None
    _, mark, question = text.rpartition(MARK)
    question = question.strip()
    tags = [marker for protocol in PROTOCOLS.values() for marker in protocol.markers if marker in question]
    if not question or "\n" in question or tags or not (mark or question.endswith("?")):
        raise QuestionError(
            f"{where}: no field 'question', and the prompt {text[:80]!r} is not a question of one line and has no "
            f"{MARK!r} before one, with nothing after it; add a field question"
        )
    return question


def _supporting_titles(row: Row, where: str) -> list[str]:
    """Titles by the supporting facts, or by the marked paragraphs."""
    try:
        return shapes.supporting_titles(row, where)
    except CorpusError as error:
        raise QuestionError(str(error)) from error


def _titles_beside(row: Row, where: str) -> list[str]:
    """The same of a row that may use these names for something else, and may have them in `metadata`."""
    try:
        return shapes.supporting_titles(shapes.plain(row), where)
    except CorpusError:
        return []


def _checked_titles(titles: Any, where: str) -> list[str]:
    if not isinstance(titles, list) or not all(isinstance(title, str) and title.strip() for title in titles):
        raise QuestionError(
            f"{where}: supporting_titles is {str(titles)[:80]!r}; it must be a list of strings, none of them empty"
        )
    return titles


def _one_title(page: Any) -> list[str]:
    """The title of a page, or that itself; names of pages in SQuAD have underscores for spaces."""
    title = page.get("title") if isinstance(page, Mapping) else page
    return [title.replace("_", " ")] if isinstance(title, str) and title.strip() else []


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    """An object, also as JSON in a string; empty for any other value."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_json(value.encode("utf-8", "replace"), where)
        except FileError as error:
            raise QuestionError(str(error)) from error
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and len(str(value)) <= 1_000
