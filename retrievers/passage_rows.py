"""Passages in the rows of published corpora, recognised by the names of their fields.

    contents       FlashRAG, Search-R1, Pyserini: title, newline, text; only a text if there is no newline
    title, text    BEIR (_id), DPR and Contriever (psgs_w100.tsv), Tevatron (docid), wiki_dpr and others of the Hub
    text           under one of the names in `TEXTS`, e.g. MS MARCO (pid, passage, or a table without header)
    KILT           wikipedia_id, wikipedia_title, and a list of paragraphs as the text

Other fields, such as embeddings, are not read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from retrievers.base import CorpusError, Passage
from retrievers.formats.rows import Rows, format_of, read_rows
from retrievers.reading import FileError

IDS = ("id", "_id", "docid", "doc_id", "docno", "pid", "passage_id", "wikipedia_id")
TITLES = ("title", "wikipedia_title", "page_title")
TEXTS = ("contents", "text", "passage", "content", "body", "paragraph_text", "paragraph", "segment")
ACCEPTED = "id and contents (title, newline, text), or id, title and text"
# Tables without header: MS MARCO's collection.tsv and msmarco-docs.tsv.
_UNNAMED = {2: ("id", "text"), 4: ("id", "url", "title", "text")}
_UNREAD = ("embeddings", "embedding", "emb", "vector", "metadata", "anchors", "history")
_MARKUP = re.compile(r"(?:Section|BULLET)::::")  # of KILT


@dataclass(frozen=True, slots=True)
class PassageShape:
    """The fields of the id, the title and the text; None for those that a row does not have."""

    id: str | None
    title: str | None
    text: str | None

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.id, self.title, self.text)))


@lru_cache(maxsize=256)
def shape_of(fields: tuple[str, ...]) -> PassageShape:
    """The fields by which a row is read; names are compared without case."""
    names = {name.lower(): name for name in fields}
    id, title, text = (next((names[n] for n in known if n in names), None) for known in (IDS, TITLES, TEXTS))
    return PassageShape(id, title, text)


def corpus_rows(path: str | Path) -> Rows:
    """`read_rows` without embeddings, with the usual names for the columns of a table without header.

    Raises `CorpusError` where `read_rows` raises `FileError`.
    """
    try:
        for where, row in read_rows(path, _UNREAD):
            if "column 1" not in row:
                yield where, row
                continue
            names = _UNNAMED.get(len(row))
            if names is None:
                raise CorpusError(
                    f"{where}: {len(row)} columns that line 1 does not name; "
                    "write their names into it, e.g. id, title, text"
                )
            yield where, dict(zip(names, row.values(), strict=True))
    except FileError as error:
        raise CorpusError(str(error)) from error


def read_passages(path: str | Path, verbatim_titles: bool = False) -> Iterator[tuple[str, Passage | None]]:
    """Yield the place and the passage of every row of a corpus; None for a row without title and text.

    Rows without an id are numbered from 0 if the first row has none. Raises `CorpusError`, naming file and row, for a
    row that is no passage.
    """
    numbered = False
    for number, (where, row) in enumerate(corpus_rows(path)):
        if number == 0:
            numbered = shape_of(tuple(row)).id is None
        elif numbered and (id := shape_of(tuple(row)).id) is not None:
            raise CorpusError(f"{where}: a field {id!r}, which the first row lacks; give all rows an id, or none")
        yield where, passage_of({**row, "id": number} if numbered else row, where, verbatim_titles)


def describe(path: str | Path) -> str:
    """What a corpus was recognised as, in a few words: its format and the fields of its passages."""
    _, row = next(corpus_rows(path), ("", {}))
    shape = shape_of(tuple(row))
    return f"{format_of(path)} with {shape}{'' if shape.id else ', numbered from 0'}"


def passage_of(row: Mapping[str, Any], where: str, verbatim_titles: bool = False) -> Passage | None:
    """The passage of a row, None if it has neither title nor text. `where` names the row in a `CorpusError`."""
    shape = shape_of(tuple(row))
    if shape.text is None:
        what = "a question, not a passage" if {"question", "query"} & set(row) else "no field 'contents' or 'text'"
        raise CorpusError(f"{where}: {what} (found {_names(row)}); a passage needs {ACCEPTED}")
    if shape.id is None:
        raise CorpusError(f"{where}: no field 'id' (found {_names(row)}); a passage needs {ACCEPTED}")
    id, text = _id(row[shape.id], shape.id, where), _text(row[shape.text], shape.text, where)
    title = "" if shape.title is None else _text(row[shape.title], shape.title, where).strip()
    if "\n" in title:  # FlashRAG's form, which an index keeps its passages in, has the title in one line
        title = " ".join(filter(None, map(str.strip, title.split("\n"))))
    if shape.text == "contents":
        passage = Passage.from_contents(id, text, verbatim_title=verbatim_titles)
        own = passage.title.strip('"').strip()
        if title and own != title:  # Pyserini: the title has a field of its own
            passage = Passage(id, title, text if own else passage.text)
    else:
        passage = Passage(id, title, text)
    return passage if passage.text.strip() or passage.title.strip('" \t\n') else None


def _id(value: Any, field: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table with gaps turned the column into floating-point numbers
    if isinstance(value, Decimal) and value.is_finite() and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise CorpusError(f"{where}: {field} is {str(value)[:80]!r}; it must be a string or a whole number")
    return str(value)


def _text(value: Any, field: str, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and field.lower() != "contents" and all(isinstance(part, str) for part in value):
        value = "\n".join(part.strip() for part in value if not _MARKUP.match(part))
    if not isinstance(value, str):
        raise CorpusError(f"{where}: {field} is {str(value)[:80]!r}; it must be a string")
    text = unicodedata.normalize("NFC", value)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _names(row: Mapping[str, Any]) -> str:
    names = sorted(str(name)[:40] for name in row)
    return f"{names}" if len(names) <= 20 else f"{names[:20]} and {len(names) - 20:,} others"
