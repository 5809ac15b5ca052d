"""Actions of an agent: search, answer, or invalid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_ACTION_CHARS = 16_384

Role = Literal["assistant", "user", "tool"]
"""How an observation is put into a chat template: as a message of the user or of a tool, or as text that continues the
turn of the assistant."""


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
    """Neither a search nor an answer; `reason` states the error and the correct format.

    `role`: "tool" if the policy tried to call a tool, so that the correction is the result of that call.
    """

    reason: str
    role: Role = "assistant"


Action = Search | Answer | Invalid


@dataclass(frozen=True, slots=True)
class ActionSpan:
    """Position of a search or an answer in the text of a turn. All positions are character indices, [start, end).

    `start` and `end` enclose the content (the query or the answer) with any white space around it; `outer_start` and
    `outer_end` also enclose the markup around the content.
    """

    kind: Literal["search", "answer"]
    start: int
    end: int
    outer_start: int
    outer_end: int
