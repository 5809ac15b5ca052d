"""Reads transcripts that other programs recorded: the answer and the queries in what the policy wrote.

Tags are those of the tag protocols, or `<tool_call>` and `<tool_response>` as verl's tools have them. Not of the
policy, and left out: the prompt (instructions show an answer as an example), evidence (a passage may hold any tag),
and what an environment writes about an invalid action (it names the tags).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from igsearch_env.protocols.tags import action_span
from retrievers.reading import FileError, parse_json

MARK = "Question:"  # before the question in the prompts of Search-R1, AutoRefine and this project

_OPEN_EVIDENCE = re.compile(r"<(information|documents|tool_response)>")
_MARKERS = ("</search>", "</answer>", "<think>", "</tool_call>")
# Where a chat template, or its text without special tokens, begins what the policy writes.
_POLICY = re.compile(
    r"<\|im_start\|>assistant\n?|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model\n|\[/INST\]"
    r"|(?<=\n)assistant\n"
)
_QUESTION_END = re.compile(r"\n|<\||<end_of_turn>|\[/INST\]")
# In Search-R1's and in this project's words about an invalid action.
_NAMED_TAGS = re.compile(r"<(search|answer)> and </\1>|neither <search> query </search> nor <answer> answer </answer>")
_CALL, _CALL_END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the policy did: its answer (None if it gave none) and its queries before that."""

    answer: str | None
    queries: tuple[str, ...]


def is_transcript(text: str) -> bool:
    """Whether a text has actions or thoughts in tags, so that it is not itself an answer."""
    return any(marker in text for marker in _MARKERS)


def question_in(prompt: str) -> str | None:
    """The line after the last `Question:` of a prompt; of a prompt of one line without it, that line; else None."""
    _, mark, rest = prompt.rpartition(MARK)
    if mark:
        return _QUESTION_END.split(rest.strip(), maxsplit=1)[0].strip() or None
    text = prompt.strip()
    return text if text and "\n" not in text and not is_transcript(text) else None


def prompt_end(text: str, question: str | None) -> int:
    """Where the prompt of a whole transcript ends; 0 if nothing shows that it has one.

    It ends after the last `Question:` before `question`, or the last one outside evidence if the question is not
    known, and after the head of the policy's turn that a chat template adds to that.
    """
    end = -1 if question is None else _last_asked(text, question)
    if end < 0:
        for start, stop in _without_evidence(text, 0):
            at = text.rfind(MARK, start, stop)
            if at >= 0:
                line = text.find("\n", at)
                end = stop if line < 0 else line
    head = _POLICY.search(text, max(end, 0))
    return max(end, 0) if head is None else head.end()


def asks(text: str, question: str) -> bool:
    """Whether a text asks the question as a prompt does, behind `Question:`."""
    return _last_asked(text, question) >= 0


def _last_asked(text: str, question: str) -> int:
    """Where the question ends that stands behind the last `Question:` before it; -1 if it is not there."""
    return max((found.end() for found in re.finditer(rf"{MARK}\s*{re.escape(question)}", text)), default=-1)


def read_transcript(text: str, start: int = 0) -> Transcript:
    """The policy's queries from `start` up to its first answer."""
    queries: list[str] = []
    for first, last in _without_evidence(text, start):
        segment = _NAMED_TAGS.sub("", text[first:last])
        for kind, content in _actions(segment):
            if kind == "answer":
                return Transcript(content, tuple(queries))
            queries.append(content)
    return Transcript(None, tuple(queries))


def _without_evidence(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Spans between blocks of evidence; a block that is not closed runs to the end, as in a truncated transcript."""
    while found := _OPEN_EVIDENCE.search(text, start):
        yield start, found.start()
        closing = f"</{found[1]}>"
        end = text.find(closing, found.end())
        if end < 0:
            return
        start = end + len(closing)
    yield start, len(text)


def _actions(text: str) -> Iterator[tuple[str, str]]:
    """Kind and content of the actions of a text without evidence."""
    while True:
        span = action_span(text)
        call = text.find(_CALL)
        stop = text.find(_CALL_END, call) if call >= 0 else -1
        if stop >= 0 and (span is None or call < span.outer_start):
            yield "search", _query(text[call + len(_CALL) : stop])
            text = text[stop + len(_CALL_END) :]
        elif span is not None:
            yield span.kind, text[span.start : span.end].strip()
            text = text[span.outer_end :]
        else:
            return


def _query(call: str) -> str:
    """The query of a tool call, or queries joined; the text of the call if it is not in the form of verl."""
    try:
        arguments = parse_json(call.strip().encode("utf-8", "replace"), "tool call")["arguments"]
        queries = arguments.get("query_list", arguments.get("query"))
        return queries if isinstance(queries, str) else "; ".join(map(str, queries))
    except (FileError, TypeError, KeyError, AttributeError):
        return call.strip()
