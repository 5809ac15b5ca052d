"""Markdown helpers that escape arbitrary text and remove passwords from addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from retrievers.credentials import without_credentials


def without_passwords(text: str) -> str:
    """The text without USER:PASSWORD@ in its addresses, which must not be published."""
    published: str = without_credentials(text)
    return published


def if_known(template: str, value: Any) -> str:
    """The template filled with the value; empty if the value is None."""
    return "" if value is None else template.format(value)


def bullet_list(items: Iterable[str]) -> str:
    """One line per item."""
    return "\n".join(f"- {item}" for item in items)


def escaped(text: str) -> str:
    """The text on one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def code_span(value: Any) -> str:
    """A value as inline code, without passwords; it may contain backticks."""
    line = without_passwords(" ".join(str(value).split()))
    ticks = "`" * (_longest_ticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def code_block(text: str, language: str = "") -> str:
    """A fenced code block; the code may contain backticks."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
