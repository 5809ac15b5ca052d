"""How families of models write calls of tools, as response templates of transformers (`parse_response`).

A tokenizer may have a response template of its own; these are for the others. Which one is right is found out by
reading back what the chat template writes (`tool_format.py`), so a name of a model plays no part.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ResponseTemplate = dict[str, Any]

NO_ANCHOR = r"(?!)"  # matches nowhere: the text to parse begins with the reply


Calls = list[tuple[str, Any]]  # name and arguments of each


@dataclass(frozen=True)
class CallFormat:
    """A response template, and what reads the calls in a region for which transformers has no parser."""

    template: ResponseTemplate
    calls: Callable[[str], Calls] | None = None


def python_calls(text: str) -> Calls:
    """Calls in a list in Python: `[search(query='x')]`. Raises `ValueError` for another text; no code is run."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        # Some templates do not escape the quotes in a value. A quote that could end it makes the call ambiguous.
        found = _UNESCAPED.fullmatch(text.strip())
        if found is None or _QUOTE_END.search(found["value"]):
            raise ValueError(f"the calls {text[:60]!r} are not valid Python ({error})") from error
        return [(found["name"], {found["key"]: found["value"]})]
    calls: Calls = []
    for call in node.elts if isinstance(node, ast.List) else [node]:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError(f"the calls {text[:60]!r} are not of the form [NAME(KEY=VALUE)]")
        if not all(keyword.arg for keyword in call.keywords):
            raise ValueError(f"the calls {text[:60]!r} are not of the form [NAME(KEY=VALUE)]")
        calls.append((call.func.id, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}))
    return calls


_UNESCAPED = re.compile(r"\[(?P<name>\w+)\((?P<key>\w+)=(?P<quote>['\"])(?P<value>.*)(?P=quote)\)\]", re.DOTALL)
_QUOTE_END = re.compile(r"['\"]\s*(?:,\s*\w+\s*[=(]|\)\s*(?:,|\]|$))")


def _format(
    calls: dict[str, Any],
    reasoning: tuple[str, str] = ("<think>", "</think>"),
    *,
    read_calls: Callable[[str], Calls] | None = None,
    **fields: Any,
) -> CallFormat:
    opening, closing = reasoning
    template = {
        "defaults": {"role": "assistant"},
        "start_anchor_pattern": NO_ANCHOR,
        "fields": {
            "reasoning_content": {"open": opening, "close": closing},
            "tool_calls": {"repeats": True, **calls},
            "content": {},
            **fields,
        },
    }
    return CallFormat(template, read_calls)


def _named(name: str = "{name}", arguments: str = "{content}") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CALL_FORMATS: dict[str, CallFormat] = {
    # <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes, Qwen 2.5 and 3, SmolLM3
    "json": _format(
        {"open": "<tool_call>", "close": "</tool_call>", "content": "json"}
        | {"transform": {"type": "function", "function": "{content}"}}
    ),
    # <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>: Qwen 3.5 and later, Nemotron 3
    "xml": _format(
        {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close": "</tool_call>",
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>",
                "merge_duplicates": True,  # no string, so the call is invalid
            },
            "transform": _named(),
        }
    ),
    # {"name": ..., "parameters": {...}}: Llama 3.1 to 4
    "bare_json": _format(
        {
            "open_pattern": r'<\|python_(?:tag|start)\|>|(?=\{[^{}]*"(?:name|parameters)"\s*:)',
            "close_pattern": r"<\|python_end\|>|$",
            "content": "json",
            "transform": _named("{content.name}", "{content.parameters}"),
        }
    ),
    # <|tool_call>call:NAME{key:<|"|>value<|"|>}<tool_call|>: Gemma 4
    "gemma": _format(
        {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "content": "json",
            "content_args": {"string_delims": [['<|"|>', '<|"|>']], "unquoted_keys": True},
            "transform": _named(),
        },
        ("<|channel>thought\n", "<channel|>"),
    ),
    # [NAME(key='value')] between <|tool_call_start|> and <|tool_call_end|>: LFM 2
    "python": _format(
        {
            "open": "<|tool_call_start|>",
            "close_pattern": r"<\|tool_call_end\|>|$",
            "transform": _named("calls"),
        },
        read_calls=python_calls,
    ),
    # Channels, and a recipient before or after the name of the channel: gpt-oss
    "harmony": _format(
        {
            "open_pattern": r"(?:<\|start\|>assistant)?(?:<\|channel\|>commentary)?\s*to=functions\.(?P<name>[\w.-]+)"
            r"[^{]*?<\|message\|>",
            "close_pattern": r"<\|call\|>|$",
            "content": "json",
            "transform": _named(),
        },
        ("<|channel|>analysis<|message|>", "<|end|>"),
        content={"open": "<|channel|>final<|message|>", "close_pattern": r"<\|return\|>|<\|end\|>|$"},
    ),
}
