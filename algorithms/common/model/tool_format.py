"""`ToolFormat`: how a policy calls tools in its own chat template, and what the template writes around their results.

Prompts and results are rendered by the template, calls are read by transformers (`parse_response`). A template that
can't describe tools (SmolLM2's, Gemma 3's) gets messages of plain text: the tools are described in the first message of
the user, a call is JSON between <tool_call> tags, and its result a message of the user between <tool_response> tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from algorithms.common.model.chat_template import ChatRenderer
from algorithms.common.model.response_templates import CALL_FORMATS, CallFormat
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols.messages import (
    AssistantMessage,
    MalformedCallError,
    ToolCall,
    message_row,
    read_message,
)

Row = Mapping[str, Any]

# Placeholders whose positions are found in what a template writes; no template contains them.
_CONTENT, _RESULT, _REASONING = "\u2063content\u2063", "\u2063result\u2063", "\u2063reasoning\u2063"
_TAG = re.compile(r"<[^<>\s]+>")
_USER = {"role": "user", "content": "."}

_INSTRUCTIONS = """You may call these tools:
{tools}
To call one, write <tool_call>{{"name": NAME, "arguments": OBJECT}}</tool_call> and stop; its result comes between \
<tool_response> and </tool_response>.

"""


class ToolFormat:
    """A `MessageFormat` of a policy, and the rendering of prompts and results.

    Args:
        renderer: renders the policy's chat template.
        tools: in JSON Schema; the first one has a single argument that is a string.
        control_tokens: texts of the tokenizer's special tokens, with their ids.

    Attributes:
        native: whether the template itself describes tools.
        call_format: how calls are read.
        end_ids: the tokens that end a call and a final message.
        answer_prefix: see `MessageFormat`.

    Raises `ConfigurationError` if the template's calls can't be read, or its turns do not end with a special token.
    """

    def __init__(self, renderer: ChatRenderer, tools: Sequence[Row], control_tokens: Mapping[str, int]) -> None:
        self.renderer = renderer
        self.tools = tools
        self._control_tokens = {text: token for text, token in control_tokens.items() if text}
        self._name: str = tools[0]["function"]["name"]
        self._argument: str = next(iter(tools[0]["function"]["parameters"]["properties"]))
        self.native = self._describes_tools()
        call = self._written(AssistantMessage(calls=(self._call(_CONTENT),)))
        answer = self._written(AssistantMessage(_CONTENT))
        self._call_end, self._answer_end = self._end(call, "call"), self._end(answer, "final message")
        self.end_ids = tuple(self._control_tokens[text] for text in (self._call_end, self._answer_end))
        self.answer_prefix = answer.partition(_CONTENT)[0]
        words = call.removeprefix(self.answer_prefix).partition(self._name)[0].split()
        tag = _TAG.match(words[0]) if words else None
        self._marker = tag.group() if tag else "".join(words[:1])  # what a call begins with
        self._opening, self._opening_after_result = self._opened((_USER,)), self._opened(self._after_call(_RESULT))
        self._names: list[str] = list(self._control_tokens)  # what must not stand in a query or an answer
        self._closing = ""  # ends reasoning
        self.call_format = self._find_format()
        reasoning = self.call_format.template["fields"].get("reasoning_content", {})
        self._closing = str(reasoning.get("close", "")).strip()
        tags = _TAG.findall(f"{call} {answer} {reasoning.get('open', '')} {self._closing}")
        self._names += [tag for tag in dict.fromkeys(tags) if tag not in self._control_tokens]
        if self._opening_after_result and self._closing not in self.answer_prefix:
            self.answer_prefix = self._closing + self.answer_prefix

    # ---------------------------------------------------------------- what the policy writes

    def parse(self, text: str) -> AssistantMessage:
        """`MessageFormat.parse`.

        A reply whose reasoning the prompt has opened is read as reasoning where it closes it.
        """
        text = text.removesuffix(self._call_end).removesuffix(self._answer_end)
        message = self._parse(text, self._opening)
        # A template may open reasoning after results alone.
        if not message.reasoning and self._opening_after_result != self._opening:
            other = self._parse(text, self._opening_after_result)
            if other.reasoning and (other.content or other.calls):
                message = other
        if message.calls or not self._marker or self._marker not in text:
            return message
        if not message.content and self._closing and self._closing not in text:
            # A call ends reasoning that nothing closes, as engines read it.
            message = self._parse(text[text.rindex(self._marker) :], "")
        if not message.calls and self._marker in message.content:
            raise MalformedCallError(f"{self._marker} begins no complete call")
        return message

    def write(self, message: AssistantMessage) -> str:
        """`MessageFormat.write`: as the template does. Special tokens and tags of the format in it are broken up."""
        calls = tuple(ToolCall(call.name, self._disarmed(call.arguments)) for call in message.calls)
        plain = AssistantMessage(self._disarmed(message.content), calls, self._disarmed(message.reasoning))
        text = self._written(plain)
        end = self._call_end if calls else self._answer_end
        return text[: text.rindex(end) + len(end)]

    def _parse(self, text: str, opening: str) -> AssistantMessage:
        # Imported here, since options are parsed without it.
        from transformers.utils.chat_parsing import parse_response

        try:
            row = parse_response(opening + text, self.call_format.template, prefix="")
            if self.call_format.calls is None:
                return read_message(row)
            message = read_message({**row, "tool_calls": ()})
            texts = [call["function"]["arguments"] for call in row.get("tool_calls", ())]
            calls = [ToolCall(*call) for text in texts for call in self.call_format.calls(text)]
            return replace(message, calls=tuple(calls))
        except MalformedCallError:
            raise
        except Exception as error:  # of JSON, of a transform without a field, of patterns
            reason = str(error).splitlines()
            raise MalformedCallError(reason[-1] if reason else type(error).__name__) from error

    def _disarmed(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._disarmed(item) for key, item in value.items()}
        if isinstance(value, str):
            for name in self._names:
                value = value.replace(name, f"{name[0]} {name[1:]}")
        return value

    # ---------------------------------------------------------------- what the policy reads

    def render_messages(self, *messages: tuple[str, str]) -> str:
        """The first messages (role, text) in the template, with the tools, up to the start of the reply."""
        return self._render([{"role": role, "content": content} for role, content in messages])

    def result(self, text: str) -> str:
        """What the template writes after the end of a call whose result is `text`, up to the start of the reply."""
        after = self._render(self._after_call(text)).partition(_CONTENT)[2]
        return after[after.index(self._call_end) + len(self._call_end) :]

    def _after_call(self, result: str) -> tuple[Row, ...]:
        call = message_row(AssistantMessage(calls=(self._call(_CONTENT),)))
        answer = {"role": "tool", "name": self._name, "tool_call_id": call["tool_calls"][0]["id"], "content": result}
        return _USER, call, answer

    # ---------------------------------------------------------------- the template

    def _call(self, content: str) -> ToolCall:
        return ToolCall(self._name, {self._argument: content})

    def _render(self, chat: Sequence[Row], *, reply: bool = True) -> str:
        if self.native:
            return self.renderer.render(chat, tools=self.tools, reply=reply)
        return self.renderer.render(self.as_plain_messages(chat), reply=reply)

    def as_plain_messages(self, chat: Sequence[Row]) -> list[Row]:
        """Messages of plain text that say the same as messages with calls and results."""
        plain: list[Row] = []
        described = False
        for row in chat:
            content = row["content"]
            if row["role"] == "tool":
                plain.append({"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"})
            elif row["role"] == "assistant":
                calls = (json.dumps(call["function"], ensure_ascii=False) for call in row.get("tool_calls", ()))
                parts = (content, *(f"<tool_call>\n{call}\n</tool_call>" for call in calls))
                plain.append({"role": "assistant", "content": "\n".join(filter(None, parts))})
            elif row["role"] == "user" and not described:
                described = True
                tools = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in self.tools)
                plain.append({"role": "user", "content": _INSTRUCTIONS.format(tools=tools) + content})
            else:
                plain.append(row)
        return plain

    def _describes_tools(self) -> bool:
        try:
            text = self.renderer.render(self._after_call(_RESULT), tools=self.tools)
        except ConfigurationError:
            return False
        described = self.tools[0]["function"]["description"]
        return described in text and _CONTENT in text and _RESULT in text.partition(_CONTENT)[2]

    def _written(self, message: AssistantMessage) -> str:
        """What the template writes for a reply after what the policy has read."""
        before, begun = self._render((_USER,), reply=False), self._render((_USER,))
        whole = self._render((_USER, message_row(message)), reply=False)
        if whole.startswith(begun):
            return whole[len(begun) :]
        # The start of a reply may say more than the reply itself, such as that there is no reasoning.
        same = next((n for n, (a, b) in enumerate(zip(whole, begun, strict=False)) if a != b), len(begun))
        if same <= len(before):
            raise self._unusable("writes replies that do not continue what it writes before them")
        return whole[same:]

    def _opened(self, chat: Sequence[Row]) -> str:
        """The part of a reply that the template writes itself: from an opened block of reasoning on, or nothing."""
        reasoned = self._written(AssistantMessage(_CONTENT, reasoning=_REASONING))
        begun = self._render(chat)[len(self._render(chat, reply=False)) :]
        for known in CALL_FORMATS.values():
            reasoning = known.template["fields"]["reasoning_content"]
            at = begun.rfind(reasoning["open"])
            if at >= 0 and begun.rfind(reasoning["close"]) < at and _REASONING in reasoned:
                return begun[at:]
        return ""

    def _end(self, text: str, what: str) -> str:
        """The special token that ends a reply."""
        after = text.rpartition(_CONTENT)[2]
        places = [(after.rfind(name), len(name), name) for name in self._control_tokens if name in after]
        if not places:
            raise self._unusable(f"ends a {what} without a special token")
        return max(places)[2]

    def _find_format(self) -> CallFormat:
        own = getattr(self.renderer.hf_tokenizer, "response_template", None)
        for candidate in ([CallFormat(own)] if own else []) + list(CALL_FORMATS.values()):
            self.call_format = candidate
            if self._reads_back():
                return candidate
        raise self._unusable("writes calls in a form that none of the known response templates reads")

    def _reads_back(self) -> bool:
        """Whether messages are read as they were written."""
        call = AssistantMessage(calls=(self._call("Who's 'A', \"B\" (1999)?"),))
        messages = [call, AssistantMessage("Paris, 1900"), AssistantMessage("Paris", reasoning="Why, it's so.")]
        # Where the prompt closes reasoning, none follows.
        reasoned = self._render((_USER, message_row(messages[-1])), reply=False)
        for message in messages if reasoned.startswith(self._render((_USER,))) else messages[:-1]:
            try:
                found = self.parse(self.write(message))
            except (MalformedCallError, ConfigurationError):
                return False
            if (found.content.strip(), found.calls) != (message.content, message.calls):
                return False
        return True

    @staticmethod
    def _unusable(reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"env.protocol='tool_calls': the tokenizer's chat template {reason}; give the tokenizer another template, "
            "or a response_template (see parse_response of transformers), or use another protocol"
        )
