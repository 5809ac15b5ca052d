"""Protocols whose actions are tags in plain text: `<search> query </search>`, `<answer> answer </answer>`.

A turn is everything that the policy writes up to the end of its action. Only text that the policy wrote is parsed, and
tags inside passages are broken up, so nothing in a passage can end a turn or answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from igsearch_env.protocols.actions import MAX_ACTION_CHARS, Action, ActionSpan, Answer, Invalid, Search
from igsearch_env.protocols.protocol import Protocol
from igsearch_env.protocols.skeleton import Skeleton, blocks, read_skeleton
from retrievers.base import Passage

_KINDS: tuple[Literal["search", "answer"], ...] = ("search", "answer")
_ANY_TAG = re.compile(r"<(/?(?:think|search|information|documents|refine|answer)>)")


class TagProtocol(Protocol):
    """Base of the tag protocols. A subclass defines its prompt and the tag around its passages."""

    evidence_tag: ClassVar[str]
    stop_strings = ("</search>", "</answer>")
    answer_prefix = "<answer>"

    def parse(self, text: str) -> Action:
        """`Protocol.parse`; the same for all tag protocols."""
        return parse(text)

    def action_span(self, text: str) -> ActionSpan | None:
        """`Protocol.action_span`."""
        return action_span(text)

    def write(self, action: Search | Answer) -> str:
        """`Protocol.write`; tags in a query or an answer are broken up, so that the text has one action."""
        if isinstance(action, Search):
            return f"<search> {_disarm(action.query)} </search>"
        return f"<answer> {_disarm(action.text)} </answer>"

    def description(self) -> str:
        """`Protocol.description`."""
        refine = ""
        if self.refines:
            refine = " After passages it first writes what matters in them between `<refine>` and `</refine>`."
        return (
            "The model may think between `<think>` and `</think>`; its turn ends with `<search> query </search>` or "
            f"`<answer> answer </answer>`.{refine}"
        )

    def refinement(self, text: str) -> str:
        """The first <refine> block, tags included; an unclosed one ends at the action. "" if there is none."""
        span = refine_span(text)
        return text[span[0] : span[1]] if span else ""

    def refined_text(self, text: str) -> str:
        """The content of the first <refine> block, stripped; "" if there is none."""
        return self.refinement(text).removeprefix("<refine>").removesuffix("</refine>").strip()

    def finished_refinements(self, text: str) -> list[str]:
        """The content of every closed <refine> block, stripped."""
        spans = blocks(text, "refine", 0)
        return [text[start + len("<refine>") : end - len("</refine>")].strip() for start, end in spans]

    def write_refinement(self, text: str) -> str:
        """`Protocol.write_refinement`."""
        return f"<refine> {text}</refine>"

    def evidence(self, passages: Sequence[Passage]) -> str:
        """The block of passages, tags included; `cut` applies only to the text between them."""
        text = _disarm(format_passages(passages).strip())
        return f"<{self.evidence_tag}>{text if self.cut is None else self.cut(text)}</{self.evidence_tag}>"

    def skeleton(self, transcript: str, start: int) -> Skeleton:
        """`Protocol.skeleton`, see `skeleton.py`."""
        return read_skeleton(transcript, start, self.evidence_tag, refines=self.refines)

    def after_evidence(self, observation: str) -> str:
        """What follows the closing tag of the passages."""
        return observation.rpartition(">")[2]


def parse(text: str) -> Action:
    """Parse the action in one turn of policy text. Never raises on any text.

    The first <search>...</search> or <answer>...</answer> pair counts, case-sensitive, across lines;
    its content is stripped (Search-R1 `generation.py`).
    """
    if len(text) > MAX_ACTION_CHARS:
        return Invalid(
            f"The action has {len(text)} characters, more than the {MAX_ACTION_CHARS} allowed. Write a shorter one."
        )
    span = action_span(text)
    if span is None:
        return Invalid(
            "The action has neither <search> query </search> nor <answer> answer </answer>. Write one of the two."
        )
    content = text[span.start : span.end].strip()
    return Search(content) if span.kind == "search" else Answer(content)


def action_span(text: str) -> ActionSpan | None:
    """Position of the action that `parse` returns; None if there is none.

    Takes linear time: a tag whose closing tag was not found is not searched for again.
    """
    dead: set[str] = set()
    position = 0
    while True:
        starts = [(text.find(f"<{kind}>", position), kind) for kind in _KINDS if kind not in dead]
        starts = [(at, kind) for at, kind in starts if at >= 0]
        if not starts:
            return None
        at, kind = min(starts)
        start = at + len(f"<{kind}>")
        end = text.find(f"</{kind}>", start)
        if end >= 0:
            return ActionSpan(kind, start, end, at, end + len(f"</{kind}>"))
        dead.add(kind)
        position = start


def refine_span(text: str) -> tuple[int, int] | None:
    """Character span of the first <refine> block of a turn, tags included; an unclosed one ends at the action."""
    start = text.find("<refine>")
    if start < 0:
        return None
    end = text.find("</refine>", start)
    if end >= 0:
        return start, end + len("</refine>")
    stops = [at for at in (text.find("<search>", start), text.find("<answer>", start)) if at >= 0]
    return start, min(stops, default=len(text))


def format_passages(passages: Sequence[Passage]) -> str:
    """`Doc i(Title: t) text`, one line each, ended by a newline (Search-R1 `_passages2string`)."""
    return "".join(f"Doc {i}(Title: {p.title}) {p.text}\n" for i, p in enumerate(passages, start=1))


def _disarm(text: str) -> str:
    """Break protocol tags inside passages or contents, so that neither a policy nor a parser takes them for real."""
    return _ANY_TAG.sub(r"< \1", text) if "<" in text else text
