"""The protocol of native tool calls: searches are calls of a tool `search`, the answer is the final message.

How a message is written as text depends on the model, so a `MessageFormat` (`messages.py`) translates between the two.
The default is the JSON of OpenAI's chat completions, for programs that hold messages. A policy's own format is that of
its chat template (`algorithms/common/model/tool_format.py`); it renders prompts and tool messages, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from igsearch_env.protocols.actions import MAX_ACTION_CHARS, Action, ActionSpan, Answer, Invalid, Role, Search
from igsearch_env.protocols.messages import (
    AssistantMessage,
    JsonMessages,
    MalformedCallError,
    MessageFormat,
    ToolCall,
)
from igsearch_env.protocols.protocol import Protocol
from igsearch_env.protocols.tags import format_passages
from retrievers.base import Passage

SEARCH_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search a corpus. Returns the passages that match the query best.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to search for."}},
            "required": ["query"],
        },
    },
}
"""The tool in JSON Schema, as chat templates and APIs take it."""

NAME: str = SEARCH_TOOL["function"]["name"]
USAGE = f'Call {NAME} with one argument, {{"query": "..."}}, or answer.'
NOTHING_FOUND = "No passages were found."
_MARK = "\u2063query\u2063"  # put in place of a query to find its position; no text contains it


@dataclass(frozen=True)
class ToolCalls(Protocol):
    """Searches are calls of the tool `search`; the answer is the text of the final message.

    Args:
        format: how messages are written as text.
    """

    name = "tool_calls"
    own_prompt = (
        "Answer the question below. Whenever you miss a fact, look it up with the tool search; you may search several "
        "times. When you know enough, reply with the answer alone, as short as possible, for example: Lisbon\n"
        "Question: {question}\n"
    )
    reflection_prompt = (
        "Look back at your answer. What is uncertain in it, and what has not been looked up yet? Search for that, then "
        "reply with your best answer alone.\nQuestion: {question}\n"
    )
    stop_strings = ()
    evidence_lead = ""
    answer_space = ""
    tools = (SEARCH_TOOL,)
    observation_role = "tool"

    format: MessageFormat = field(default_factory=JsonMessages, compare=False)

    @property
    def answer_prefix(self) -> str:
        """`Protocol.answer_prefix`."""
        return self.format.answer_prefix

    # ---------------------------------------------------------------- what the policy writes

    def description(self) -> str:
        """`Protocol.description`."""
        return (
            f"The model calls the tool `{NAME}` with a `query` in the format of its chat template; a message without a "
            "call is its answer."
        )

    def parse(self, text: str) -> Action:
        """`Protocol.parse`. A call of another tool, with other arguments, or one of several calls is invalid."""
        if len(text) > MAX_ACTION_CHARS:
            return Invalid(f"The message has {len(text)} characters, more than the {MAX_ACTION_CHARS} allowed. {USAGE}")
        try:
            message = self.format.parse(text)
        except MalformedCallError as error:
            return Invalid(f"The tool call can't be read: {error}. {USAGE}", "tool")
        if len(message.calls) > 1:
            return Invalid(f"The message has {len(message.calls)} tool calls; only one is allowed. {USAGE}", "tool")
        if message.calls:
            return _action(message.calls[0])
        if not message.content.strip():
            return Invalid(f"The message has neither a tool call nor an answer. {USAGE}")
        return Answer(message.content.strip())

    def action_span(self, text: str) -> ActionSpan | None:
        """`Protocol.action_span`: found by replacing each occurrence of the content until the replacement is parsed."""
        action = self.parse(text)
        if isinstance(action, Invalid):
            return None
        content = action.query if isinstance(action, Search) else action.text
        once = _escaped(content)  # in JSON; twice where the arguments are JSON in a string
        quoted = content.replace("\\", "\\\\").replace("'", "\\'")  # in Python
        places = [
            (at, at + len(written))
            for written in dict.fromkeys((content, once, _escaped(content, ascii=True), _escaped(once), quoted))
            for at in _occurrences(text, written)
        ]
        for start, end in sorted(places, reverse=True):  # reasoning, which may repeat the content, comes before it
            found = self.parse(text[:start] + _MARK + text[end:])
            if found == Search(_MARK) and isinstance(action, Search):
                return ActionSpan("search", start, end, self._call_start(text, start, action), len(text))
            if found == Answer(_MARK) and isinstance(action, Answer):
                return ActionSpan("answer", start, end, start, end)
        return ActionSpan("search" if isinstance(action, Search) else "answer", 0, len(text), 0, len(text))

    def _call_start(self, text: str, query: int, action: Search) -> int:
        """Where the markup of the call begins: the last place from which the text still reads as the same call."""
        places = (at for at in range(query, -1, -1) if at == 0 or text[at] in "<[{" or text[at - 1].isspace())
        return next((at for at in places if self._reads_as(text[at:], action)), 0)

    def _reads_as(self, text: str, action: Search) -> bool:
        return text[:1] in "<[{" and self.parse(text) == action

    def write(self, action: Search | Answer) -> str:
        """`Protocol.write`."""
        return self.format.write(self.message(action))

    def message(self, turn: str | Search | Answer) -> AssistantMessage:
        """`Protocol.message`."""
        if isinstance(turn, Search):
            return AssistantMessage(calls=(ToolCall(NAME, {"query": turn.query}),))
        if isinstance(turn, Answer):
            return AssistantMessage(turn.text)
        try:
            return self.format.parse(turn)
        except MalformedCallError:
            return AssistantMessage(turn)

    # ---------------------------------------------------------------- what the policy reads

    def role_after(self, action: Action) -> Role:
        """`Protocol.role_after`: the result of a call is a tool message, any other text one of the user."""
        if isinstance(action, Search) or (isinstance(action, Invalid) and action.role == "tool"):
            return "tool"
        return "user"

    def evidence(self, passages: Sequence[Passage]) -> str:
        """The passages, without markup: the tool message is made by the chat template."""
        text = format_passages(passages).strip() or NOTHING_FOUND
        return text if self.cut is None else self.cut(text)

    def after_evidence(self, observation: str) -> str:
        """The last call, if the observation ends with it."""
        last = self.last_call()
        return last if observation.endswith(last) else ""

    def observation(self, passages: Sequence[Passage]) -> str:
        """`Protocol.observation`."""
        return self.evidence(passages)

    def correction(self, invalid: Invalid) -> str:
        """`Protocol.correction`."""
        return invalid.reason

    def last_call(self) -> str:
        """`Protocol.last_call`."""
        return "\n\nNo search is left. Answer now."

    def reflection(self, question: str) -> str:
        """`Protocol.reflection`."""
        return super().reflection(question).strip()


def _action(call: ToolCall) -> Search | Invalid:
    if call.name != NAME:
        return Invalid(f"There is no tool {call.name!r}; the only one is {NAME}. {USAGE}", "tool")
    if not isinstance(call.arguments, Mapping):
        return Invalid(
            f"The arguments of the call are {str(call.arguments)[:60]!r}, which is no object. {USAGE}", "tool"
        )
    extra = sorted(str(key) for key in call.arguments if key != "query")
    if extra:
        return Invalid(f"The tool {NAME} has no argument {', '.join(extra)[:60]!r}. {USAGE}", "tool")
    query = call.arguments.get("query")
    if not isinstance(query, str):
        found = "is missing" if query is None else f"is {str(query)[:60]!r}, which is no string"
        return Invalid(f"The argument query {found}. {USAGE}", "tool")
    return Search(query.strip())


def _escaped(text: str, *, ascii: bool = False) -> str:
    return json.dumps(text, ensure_ascii=ascii)[1:-1]


def _occurrences(text: str, part: str) -> list[int]:
    places, at = [], text.find(part) if part else -1
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places
