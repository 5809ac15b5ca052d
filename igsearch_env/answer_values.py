"""Answers as files hold them: strings, numbers, booleans, lists of these, lists written into a string."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from igsearch_env.errors import QuestionError

_MAX_DEPTH = 3  # of lists in lists
_HIDDEN = "<unk>"  # the answer in the test split of TriviaQA on the Hub
_MAX_LITERAL = 1_000_000  # characters of a list in a string
_LITERAL = r"""(?:[uU]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|[\w.+-]+)"""
# Literals with commas between them. Python would join two that have none, as numpy prints an array.
_LIST = re.compile(rf"[\[(]\s*(?:{_LITERAL}\s*(?:,\s*{_LITERAL}\s*)*,?\s*)?[\])]")


@dataclass(slots=True)
class AnswerValues:
    """The answers of a row as strings, in order, and how many of the values that it has are null or empty."""

    texts: list[str] = field(default_factory=list)
    empty: int = 0

    @property
    def given(self) -> int:
        """Number of values."""
        return len(self.texts) + self.empty

    @classmethod
    def read(cls, value: Any, where: str, fields: Sequence[str] = ()) -> AnswerValues:
        """Read a value of a row; of an object, its `fields`.

        Numbers become their shortest text (1902.0: "1902"), booleans "yes" and "no", as in questions that ask for
        them. A string that is a JSON or Python list of strings is that list. `where` begins the message of a
        `QuestionError`, and names the field.
        """
        found = cls()
        for text in _texts(value, where, fields, 0):
            if text is None or not text.strip() or text == _HIDDEN:
                found.empty += 1
            else:
                found.texts.append(text)
        return found


def plain_value(value: Any) -> Any:
    """A value of a cell: of numpy's types the Python value, of NaN None, of a whole float the number."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def text_of(value: Any) -> str | None:
    """A string, number or boolean as an answer; None if it is null.

    Raises `TypeError` for another type, and for infinity.
    """
    value = plain_value(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, Decimal)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise TypeError(type(value).__name__)


def _texts(value: Any, where: str, fields: Sequence[str], depth: int) -> Iterator[str | None]:
    value = plain_value(value)
    if isinstance(value, str) and depth < _MAX_DEPTH:
        value = _list_in(value, where)
        if isinstance(value, str) and fields:
            value = _object_in(value, where)
    if isinstance(value, (list, tuple)):
        if depth >= _MAX_DEPTH:
            raise QuestionError(f"{where} has lists nested more than {_MAX_DEPTH} deep; write one list of strings")
        for item in value:
            yield from _texts(item, where, fields, depth + 1)
    elif isinstance(value, Mapping) and any(name in value for name in fields):
        for name in fields:
            if name in value:
                yield from _texts(value[name], where, (), depth)
    else:
        try:
            yield text_of(value)
        except TypeError as error:
            raise QuestionError(
                f"{where} is {str(value)[:80]!r}; it must be a list of strings (numbers and true or false are accepted)"
            ) from error


def _list_in(text: str, where: str) -> Any:
    """The list that a string holds, as a cell of a table does; the string itself if it holds none."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        return text
    if len(inner) <= _MAX_LITERAL:
        try:
            return json.loads(inner)
        except (ValueError, RecursionError):
            pass
        if _LIST.fullmatch(inner):
            try:
                return ast.literal_eval(inner)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                pass
    if inner[1:].lstrip()[:1] in ("'", '"'):
        raise QuestionError(
            f"{where} is {text[:80]!r}, a list that can't be read; write it as JSON or Python does, with commas: "
            '["a", "b"]'
        )
    return text


def _object_in(text: str, where: str) -> Any:
    """The object that a string holds, as a dump of `ground_truth` does; the string itself if it holds none."""
    inner = text.strip()
    if not (inner.startswith(("{'", '{"')) and inner.endswith("}")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(inner[:_MAX_LITERAL])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    raise QuestionError(f"{where} is {text[:80]!r}, an object that can't be read; write it as JSON does")
