"""The strings that name an engine: `KIND:PLACE?OPTION=VALUE&...`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote

from retrievers.base import CorpusError
from retrievers.credentials import mask

KINDS = ("elasticsearch", "lucene", "qdrant")
_ADDRESS = re.compile(r"(https?://(?:[^/?#]*@)?[^?]*)(?:\?(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A parsed string: where the engine is, what is searched there, and options."""

    text: str  # masked
    whole: str  # address or path, with credentials and the name
    place: str  # what stands before the name
    name: str  # the last part: index, collection or folder
    options: dict[str, str]


def is_engine(text: str) -> bool:
    """Whether `text` names an engine rather than a file or a service."""
    return text.partition(":")[0] in KINDS and ":" in text


def parse(text: str, form: str, options: Collection[str] = ()) -> Source:
    """The parts of a string such as `form`, the example in errors. Raises `CorpusError`."""
    shown = mask(text)
    rest = text.partition(":")[2]
    address = _ADDRESS.fullmatch(rest)
    place, query = (address[1], address[2] or "") if address else rest.partition("?")[::2]
    base, _, name = place.rstrip("/").rpartition("/")
    if not name or (address and base.endswith(("/", ":"))):
        raise CorpusError(f"{shown}: names no index; write it as {form}")
    given: dict[str, str] = {}
    for option in filter(None, query.split("&")):
        key, equals, value = option.partition("=")
        if key not in options or not equals or not value or key in given:
            raise CorpusError(
                f"{shown}: option {mask(option)!r}; each of {sorted(options)} may be given once, as {form}"
            )
        given[key] = unquote(value)
    return Source(shown, place, base, unquote(name) if address else name, given)
