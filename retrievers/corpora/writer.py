"""Writes each passage once and each question once, and counts what the questions find among the passages."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from retrievers.base import CorpusError

CORPUS = "corpus.jsonl"
ID_BYTES = 10  # of a passage's id; among 21 million passages two have the same with a probability of 2e-10
SPLITS = ("train", "dev", "test")
_UNSEARCHABLE = {"yes", "no"}


@dataclass(slots=True)
class Input:
    """What one input file was and gave."""

    name: str
    """As it was named: a path, or hf:OWNER/REPO/FILE@COMMIT."""
    path: Path
    shape: str = ""
    dataset: str | None = None
    split: str | None = None
    rows: int = 0
    paragraphs: int = 0
    passages: int = 0
    """Paragraphs that no earlier row had."""
    duplicates: int = 0
    empty: int = 0
    """Paragraphs without text, left out."""
    without_paragraphs: int = 0
    """Questions without a paragraph."""
    questions: int = 0
    repeated_questions: int = 0
    without_answer: int = 0
    """Rows of a test file, and questions marked as not answerable: only their paragraphs are used."""


@dataclass(slots=True)
class Coverage:
    """How much of the questions of one split the corpus holds."""

    questions: int = 0
    with_titles: int = 0
    """Questions whose supporting titles are known."""
    titles: int = 0
    """Those of them whose titles are all in the corpus."""
    with_span: int = 0
    """Questions with another answer than yes or no."""
    answers: int = 0
    """Those of them whose answer occurs in a paragraph that came with the question."""
    complete: int = 0
    """Questions of both kinds that have both."""


@dataclass(slots=True)
class _Asked:
    """What is remembered of a written question. `answered`: None if its answer is yes or no."""

    dataset: str
    split: str
    titles: tuple[bytes, ...]
    answered: bool | None


@dataclass(slots=True)
class CorpusWriter:
    """Writes `corpus.jsonl` and a question file per data set and split into a folder. Close it to complete the files.

    Two passages are the same if title and text differ in white space, case, composition of accents and HTML entities
    in the title at most; the first one stays. The id is a hash of both, so it does not depend on the other inputs.
    """

    folder: Path
    passages: int = 0
    characters: int = 0
    _ids: set[bytes] = field(default_factory=set)
    _titles: set[bytes] = field(default_factory=set)
    _asked: list[_Asked] = field(default_factory=list)
    _questions: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    _open: dict[str, TextIO] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def add(self, paragraphs: Iterable[tuple[str, str]], source: Input) -> None:
        """Write the passages that are new, and count them."""
        for title, text in paragraphs:
            source.paragraphs += 1
            if not text:
                source.empty += 1
                continue
            id = passage_id(title, text)
            if id in self._ids:
                source.duplicates += 1
                continue
            self._ids.add(id)
            self._titles.add(_title_key(title))
            self.passages += 1
            self.characters += len(title) + len(text)
            source.passages += 1
            self._write(CORPUS, {"id": id.hex(), "contents": f'"{title}"\n{text}'})

    def ask(self, question: dict[str, Any], paragraphs: Sequence[tuple[str, str]], source: Input, where: str) -> None:
        """Write a question, unless the same one has been written. Raises `CorpusError` if its id is another's."""
        assert source.dataset is not None
        assert source.split is not None
        dataset, split = source.dataset, source.split
        number = self._numbers.get((dataset, split), 0)
        self._numbers[dataset, split] = number + 1
        id = question.get("id", f"{split}_{number}")
        text = hashlib.blake2b(question["question"].encode(), digest_size=8).digest()
        known, place = self._questions.setdefault((dataset, id), (text, where))
        if known != text:
            raise CorpusError(f"{where}: id {id!r} is already that of another question ({place}); ids must be unique")
        if place != where:
            source.repeated_questions += 1
            return
        source.questions += 1
        titles = tuple(_title_key(title) for title in question["supporting_titles"])
        self._asked.append(_Asked(dataset, split, titles, _answered(question["golden_answers"], paragraphs)))
        self._write(question_file(dataset, split), {"id": id, **question, "dataset": dataset, "split": split})

    def coverage(self) -> dict[tuple[str, str], Coverage]:
        """Coverage of each data set and split, once all passages have been added."""
        found: dict[tuple[str, str], Coverage] = {}
        for asked in self._asked:
            counts = found.setdefault((asked.dataset, asked.split), Coverage())
            titles = bool(asked.titles) and self._titles.issuperset(asked.titles)
            counts.questions += 1
            counts.with_titles += bool(asked.titles)
            counts.titles += titles
            counts.with_span += asked.answered is not None
            counts.answers += asked.answered is True
            counts.complete += titles and asked.answered is True
        return found

    def _write(self, name: str, row: dict[str, Any]) -> None:
        if name not in self._open:
            self._open[name] = self._stack.enter_context((self.folder / name).open("w", encoding="utf-8"))
        self._open[name].write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Complete the files."""
        self._stack.close()

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def question_file(dataset: str, split: str) -> str:
    """The file of the questions of a split. Splits are apart because training uses every row of its files."""
    return f"{dataset}.{split}.jsonl"


def passage_id(title: str, text: str) -> bytes:
    """The identity of a passage, `ID_BYTES` long."""
    normal = unicodedata.normalize("NFC", f"{' '.join(title.split())}\x1f{''.join(text.split())}".casefold())
    return hashlib.blake2b(normal.encode(), digest_size=ID_BYTES).digest()


def _title_key(title: str) -> bytes:
    return hashlib.blake2b(_folded(title).encode(), digest_size=8).digest()


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def _answered(answers: Sequence[str], paragraphs: Sequence[tuple[str, str]]) -> bool | None:
    """Whether an answer occurs in a paragraph, as whole words; None if yes or no is the answer."""
    wanted = [_folded(answer).strip(" .") for answer in answers]
    if _UNSEARCHABLE.intersection(wanted):
        return None
    for title, text in paragraphs:
        folded = _folded(f"{title} {text}")
        if any(answer and _occurs(answer, folded) for answer in wanted):
            return True
    return False


def _occurs(answer: str, text: str) -> bool:
    position = text.find(answer)
    while position >= 0:
        end = position + len(answer)
        before, after = text[position - 1 : position], text[end : end + 1]
        if not (before.isalnum() and answer[0].isalnum()) and not (after.isalnum() and answer[-1].isalnum()):
            return True
        position = text.find(answer, position + 1)
    return False
