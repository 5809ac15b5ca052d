"""What an agent does in a turn: search, answer, or neither."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Search:
    """The policy asks for passages. An empty query is a search too; it finds nothing."""

    query: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The policy answers; the episode ends."""

    text: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """Neither; `reason` says what was wrong and how to do it right."""

    reason: str


Action = Search | Answer | Invalid
