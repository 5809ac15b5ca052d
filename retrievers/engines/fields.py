"""The fields of an engine's document that hold a passage."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from retrievers.base import CorpusError, Passage
from retrievers.service.wire import unicode

OPTIONS = ("title", "text", "contents")


@dataclass(frozen=True)
class Fields:
    """Names of fields: `contents` holds title, newline and text (FlashRAG); else `title` and `text` hold one each."""

    title: str = ""  # none: passages without a title
    text: str = ""
    contents: str = ""

    @property
    def names(self) -> list[str]:
        """The fields that are read."""
        return [name for name in (self.title, self.text, self.contents) if name]

    def passage(self, id: str, document: Mapping[str, Any], where: str, score: float = 0.0) -> Passage:
        """The passage of a document. Raises `CorpusError` for one without these fields."""
        if self.contents:
            contents = _string(document, self.contents, id, where)
            return Passage.from_contents(id, contents, score)
        title = _string(document, self.title, id, where) if self.title and document.get(self.title) is not None else ""
        return Passage(id, title, _string(document, self.text, id, where), score)


def choose(given: Mapping[str, str], existing: Collection[str], where: str) -> Fields:
    """The fields that options name, else those of the usual names that exist. Raises `CorpusError`."""
    named = {option: given[option] for option in OPTIONS if option in given}
    missing = sorted(set(named.values()) - set(existing))
    if missing or ("contents" in named and len(named) > 1):
        raise CorpusError(
            f"{where}: fields {named} with documents that have {_shown(existing)}; name fields that exist, either "
            "contents (title, newline and text in one), or text and title"
        )
    if "contents" in named:
        return Fields(contents=named["contents"])
    if not named and "text" not in existing and "contents" in existing:
        return Fields(contents="contents")
    text, title = named.get("text", "text"), named.get("title", "title")
    if text not in existing:
        raise CorpusError(
            f"{where}: its documents have the fields {_shown(existing)}, none of the name {text!r} or 'contents'; name "
            "the field of the text with ?text=FIELD, or ?contents=FIELD for title, newline and text in one"
        )
    return Fields(title=title if title in existing else "", text=text)


def _shown(names: Collection[str]) -> str:
    return reprlib.repr(sorted(names))


def _string(document: Mapping[str, Any], field: str, id: str, where: str) -> str:
    value = document.get(field)
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}: the field {field!r} of document {id!r} is {reprlib.repr(value)}; every document "
            "needs a string there"
        )
    return unicode(value)
