"""Messages of an assistant that calls tools, and `MessageFormat`: how they are written as text."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. `arguments` is whatever the model wrote: a mapping, unless the call is malformed."""

    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """A message of the assistant: its text, or calls of tools, after its reasoning if there is any."""

    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


class MalformedCallError(ValueError):
    """A text that holds a call of a tool in a form that can't be read; the message says why."""


class MessageFormat(typing.Protocol):
    """How messages of the assistant are written as text."""

    @property
    def answer_prefix(self) -> str:
        """What the policy writes before the text of a final message without reasoning."""
        ...

    def parse(self, text: str) -> AssistantMessage:
        """The message in one turn of the policy. Raises `MalformedCallError`, and nothing else, on any text."""
        ...

    def write(self, message: AssistantMessage) -> str:
        """The text of a message, with what ends the turn."""
        ...


class JsonMessages:
    """Messages as JSON objects in the form of OpenAI's chat completions; any other text is a final message."""

    answer_prefix = ""

    def parse(self, text: str) -> AssistantMessage:
        """`MessageFormat.parse`."""
        if _is_plain(text):
            return AssistantMessage(text)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedCallError(f"the message is not valid JSON ({error})") from error
        return read_message(row)

    def write(self, message: AssistantMessage) -> str:
        """`MessageFormat.write`. A message without calls is its text alone, unless that would read as a message."""
        if not message.calls and _is_plain(message.content):
            return message.content
        return json.dumps(message_row(message), ensure_ascii=False)


def _is_plain(text: str) -> bool:
    """Whether a text is a final message itself, rather than a JSON object in the form of a message."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return not (text.lstrip().startswith("{") and '"tool_calls"' in text)
    return not isinstance(row, Mapping) or not row.keys() & {"content", "tool_calls"}


def read_message(row: Mapping[str, Any]) -> AssistantMessage:
    """A message in OpenAI's form, in which arguments may be a mapping or its JSON.

    Raises `MalformedCallError` for another form.
    """
    content = row.get("content") or ""
    if isinstance(content, list):  # parts
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    if not isinstance(content, str):
        raise MalformedCallError(f"its content is {str(content)[:60]!r}, which is no text")
    calls = row.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise MalformedCallError(f"its tool_calls are {str(calls)[:60]!r}, which is no list")
    reasoning = row.get("reasoning_content") or row.get("thinking") or row.get("reasoning") or ""
    return AssistantMessage(content, tuple(_read_call(call) for call in calls), str(reasoning))


def _read_call(call: Any) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MalformedCallError(f"{str(call)[:60]!r} names no tool")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise MalformedCallError(f"the arguments are not valid JSON ({error})") from error
    return ToolCall(function["name"], arguments)


def message_row(message: AssistantMessage, id: str = "call_0") -> dict[str, Any]:
    """A message in OpenAI's form, with mappings as arguments, as chat templates take it. `id`: of its first call."""
    row: dict[str, Any] = {"role": "assistant", "content": message.content}
    if message.reasoning:
        row["reasoning_content"] = row["thinking"] = message.reasoning  # the name depends on the template
    if message.calls:
        row["tool_calls"] = [
            {"id": f"{id}_{n}" if n else id, "type": "function", "function": asdict(call)}
            for n, call in enumerate(message.calls)
        ]
    return row
