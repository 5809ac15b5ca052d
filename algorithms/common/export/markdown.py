"""Markdown in which any text keeps its place, and no password of an address is left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def without_passwords(text: str) -> str:
    """The text without USER:PASSWORD@ in its addresses: not for publication."""
    return _USERINFO.sub("", text)


def if_known(template: str, value: Any) -> str:
    """The template with the value in it; nothing where the value is None."""
    return "" if value is None else template.format(value)


def bullet_list(items: Iterable[str]) -> str:
    """One line an item."""
    return "\n".join(f"- {item}" for item in items)


def escaped(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def code_span(value: Any) -> str:
    """A value as code within a line, whatever is in it but passwords."""
    line = without_passwords(" ".join(str(value).split()))
    ticks = "`" * (_longest_ticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def code_block(text: str, language: str = "") -> str:
    """Lines of code, whatever is in them."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
