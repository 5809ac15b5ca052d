"""What a row holds: a question of a benchmark with its paragraphs, or a passage of a corpus.

    HotpotQA           question, answer, context [[title, [sentence, ...]], ...], supporting_facts [[title, n], ...]
    2WikiMultiHopQA    the same, with evidences; `context` and the others may be JSON inside a string
    both on the Hub    context {title: [...], sentences: [[...], ...]}, supporting_facts {title: [...], sent_id: [...]}
    MuSiQue            question, answer, paragraphs [{idx, title, paragraph_text}, ...], question_decomposition
    FlashRAG           question, golden_answers, and in `metadata` the other fields of one of the above
    aliases            Q_id, aliases, demonyms: names of the answers of 2WikiMultiHopQA (`id_aliases.json`)
    passages           any form in `retrievers.passage_rows`, with an id or without

Sentences of HotpotQA carry the space before them, those of 2WikiMultiHopQA do not.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrievers.base import CorpusError
from retrievers.passage_rows import passage_of
from retrievers.passage_rows import shape_of as passage_shape
from retrievers.reading import FileError, parse_json

HOTPOTQA, WIKI2, MUSIQUE = DATASETS = ("hotpotqa", "2wikimultihopqa", "musique")
PASSAGES, ALIASES, PARAGRAPHS, CONTEXT = "passages", "aliases", "paragraphs", "context"
ACCEPTED = (
    "HotpotQA or 2WikiMultiHopQA (question, answer, context, supporting_facts), MuSiQue (question, answer, "
    "paragraphs), FlashRAG with these in metadata, passages (id and contents, or title and text), "
    "id_aliases.json of 2WikiMultiHopQA (Q_id, aliases)"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What one row holds. `question`: a row of a question file without `dataset` and `split`."""

    paragraphs: list[tuple[str, str]]  # title and text
    question: dict[str, Any] | None = None
    answerable: bool = True  # False: the row says that its paragraphs have no answer


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the fields that FlashRAG keeps in `metadata` beside the others."""
    metadata = row.get("metadata")
    return {**metadata, **row} if isinstance(metadata, dict) and "question" in row else row


def shape_of(row: Mapping[str, Any], where: str) -> str:
    """The shape of a row. Raises `CorpusError` for another one."""
    if "question" in row:
        if PARAGRAPHS in row:
            return PARAGRAPHS
        if CONTEXT in row:
            return CONTEXT
    elif "Q_id" in row:
        return ALIASES
    elif passage_shape(tuple(row)).text is not None:
        return PASSAGES
    raise CorpusError(f"{where}: its fields are {', '.join(map(str, row))[:200]}; accepted are: {ACCEPTED}")


def dataset_of(row: Mapping[str, Any], shape: str) -> str | None:
    """The benchmark of a row by its fields; None for a passage, and if they do not tell."""
    if shape == PARAGRAPHS:
        return MUSIQUE
    if shape == PASSAGES:
        return None
    if shape == ALIASES or "evidences" in row or "entity_ids" in row:
        return WIKI2
    return HOTPOTQA if "level" in row else None


def dataset_named(path: str) -> str | None:
    """HotpotQA or 2WikiMultiHopQA, if a path names one of them and not the other."""
    name = path.lower()
    named = [dataset for dataset, part in ((HOTPOTQA, "hotpot"), (WIKI2, "2wiki")) if part in name]
    return named[0] if len(named) == 1 else None


def read_passage(row: dict[str, Any], where: str) -> Found:
    """A passage of a published corpus; one whose text is empty counts as an empty paragraph."""
    field = passage_shape(tuple(row)).text
    if field is not None and isinstance(row[field], list):
        row = {**row, field: join_sentences(row[field], where)}
    passage = passage_of({"id": "0", **row}, where)
    return Found([("", "")] if passage is None else [(clean_title(passage.title, where), passage.text.strip())])


def read_aliases(row: dict[str, Any], where: str) -> tuple[str, list[str]]:
    """The Wikidata id of an answer, and its other names."""
    return str(row["Q_id"]), [name for field in ("aliases", "demonyms") for name in _strings(row, field, where)]


def read_question(row: dict[str, Any], shape: str, where: str, aliases: Mapping[str, Sequence[str]]) -> Found:
    """A question with its paragraphs. Without an answer, as in test files, only the paragraphs."""
    if shape == PARAGRAPHS:
        paragraphs, titles = _musique(row, where)
    else:
        paragraphs = [
            (clean_title(title, where), join_sentences(text, where))
            for title, text in _pairs(row[CONTEXT], CONTEXT, ("title",), ("sentences", "content"), where)
        ]
        titles = _fact_titles(row, where)
    answers = _answers(row, where, aliases)
    if row.get("answerable") is False:
        return Found(paragraphs, answerable=False)
    if not answers:
        return Found(paragraphs)
    text = row["question"]
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{where}: question is {text!r}; it must be a text")
    question = {"question": text.strip(), "golden_answers": answers, "supporting_titles": list(dict.fromkeys(titles))}
    for name in ("_id", "id"):
        if isinstance(row.get(name), (str, int)) and row[name] != "":
            question = {"id": str(row[name]), **question}
            break
    if isinstance(row.get("type"), str):
        question["type"] = row["type"]
    return Found(paragraphs, question)


def supporting_titles(row: dict[str, Any], where: str) -> list[str]:
    """Titles of the supporting paragraphs of a question, each once; [] if it names none. Raises `CorpusError`."""
    titles = _musique(row, where)[1] if PARAGRAPHS in row else _fact_titles(row, where)
    return list(dict.fromkeys(titles))


def _fact_titles(row: dict[str, Any], where: str) -> list[str]:
    facts = _pairs(row.get("supporting_facts") or [], "supporting_facts", ("title",), ("sent_id",), where)
    return [clean_title(title, where) for title, _ in facts]


def _musique(row: dict[str, Any], where: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The paragraphs, and the titles of the supporting ones in the order of the hops."""
    paragraphs: list[tuple[str, str]] = []
    by_number: dict[int, str] = {}
    marked: list[str] = []
    given = _decoded(row[PARAGRAPHS], PARAGRAPHS, where)
    for position, paragraph in enumerate(_list(given, PARAGRAPHS, where)):
        if not isinstance(paragraph, dict) or not {"title", "paragraph_text"} <= paragraph.keys():
            raise CorpusError(f"{where}: paragraph {position} is not an object with title and paragraph_text")
        title = clean_title(paragraph["title"], where)
        paragraphs.append((title, join_sentences(paragraph["paragraph_text"], where)))
        by_number[_whole(paragraph.get("idx", position), "idx", where)] = title
        if paragraph.get("is_supporting") is True:
            marked.append(title)
    hops: list[str] = []
    steps = _decoded(row.get("question_decomposition") or [], "question_decomposition", where)
    for step in _list(steps, "question_decomposition", where):
        number = step.get("paragraph_support_idx") if isinstance(step, dict) else None
        if number is None:  # a hop whose paragraph is missing, as in questions that have no answer
            continue
        if _whole(number, "paragraph_support_idx", where) not in by_number:
            raise CorpusError(f"{where}: paragraph_support_idx is {number}, but no paragraph has this idx")
        hops.append(by_number[number])
    return paragraphs, [*hops, *marked]


def _answers(row: dict[str, Any], where: str, aliases: Mapping[str, Sequence[str]]) -> list[str]:
    """The answer and its other names, each once; [] if the row has none."""
    if "golden_answers" in row:
        answers = _strings(row, "golden_answers", where)
    else:
        answer = row.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise CorpusError(f"{where}: answer is {str(answer)[:80]!r}; it must be a text")
        answers = [answer or ""]
    if not any(answer.strip() for answer in answers):
        return []
    answers += _strings(row, "answer_aliases", where)
    if isinstance(row.get("answer_id"), str):
        answers += aliases.get(row["answer_id"], ())
    return list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


def clean_title(title: Any, where: str) -> str:
    """A title in one line, without the HTML entities (`&amp;`) that HotpotQA has in titles."""
    if not isinstance(title, str):
        raise CorpusError(f"{where}: a title is {str(title)[:80]!r}; it must be a text")
    return " ".join(html.unescape(title).split())


def join_sentences(text: Any, where: str) -> str:
    """The text of a paragraph, from its sentences; a space is added where they bring none."""
    if isinstance(text, str):
        return text.strip()
    sentences = _list(text, "the text of a paragraph", where)
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise CorpusError(f"{where}: the text of a paragraph is {str(text)[:80]!r}; it must be a list of sentences")
    spaced = any(sentence[:1].isspace() for sentence in sentences[1:])
    return ("" if spaced else " ").join(sentences).strip()


def _pairs(value: Any, name: str, firsts: Sequence[str], seconds: Sequence[str], where: str) -> list[tuple[Any, Any]]:
    """Pairs from [[first, second], ...], from {first: [...], second: [...]} or from [{first, second}, ...]."""
    value = _decoded(value, name, where)
    form = f"{name} must be a list of [{firsts[0]}, {seconds[0]}], or both lists under these names"
    if isinstance(value, dict):
        columns = [next((value[key] for key in keys if key in value), None) for keys in (firsts, seconds)]
        match columns:
            case [list(one), list(other)] if len(one) == len(other):
                return list(zip(one, other, strict=True))
        raise CorpusError(f"{where}: {form}")
    pairs = []
    for item in _list(value, name, where):
        if isinstance(item, dict):
            item = [next((item[key] for key in keys if key in item), None) for keys in (firsts, seconds)]
        if not isinstance(item, list) or len(item) != 2:
            raise CorpusError(f"{where}: {form}, not {str(item)[:80]!r}")
        pairs.append((item[0], item[1]))
    return pairs


def _decoded(value: Any, name: str, where: str) -> Any:
    """A value that some releases store as JSON inside a string."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode("utf-8"), f"{where}, {name}")
    except FileError as error:
        raise CorpusError(str(error)) from error


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise CorpusError(f"{where}: {name} is {str(value)[:80]!r}; it must be a list")
    return value


def _whole(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CorpusError(f"{where}: {name} is {str(value)[:80]!r}; it must be a whole number")
    return value


def _strings(row: Mapping[str, Any], field: str, where: str) -> list[str]:
    value = [] if row.get(field) is None else _list(row[field], field, where)
    if not all(isinstance(item, str) for item in value):
        raise CorpusError(f"{where}: {field} is {str(value)[:80]!r}; it must be a list of texts")
    return list(value)
