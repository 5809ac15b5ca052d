"""How families of models write calls of tools, as response templates of transformers (`parse_response`).

A tokenizer may have a response template of its own; these are for the others. Which one is right is found out by
reading back what the chat template writes (`tool_format.py`), so a name of a model plays no part.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ResponseTemplate = dict[str, Any]

NO_ANCHOR = r"(?!)"  # matches nowhere: the text to parse begins with the reply


@dataclass(frozen=True)
class CallFormat:
    """A response template, and what reads the text of arguments for which transformers has no parser."""

    template: ResponseTemplate
    arguments: Callable[[str], dict[str, Any]] | None = None


def python_arguments(text: str) -> dict[str, Any]:
    """Keyword arguments of a call in Python. Raises `ValueError` for another text; no code is run."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"the arguments {text[:60]!r} are not valid Python ({error})") from error
    if not isinstance(call, ast.Call) or call.args or not all(keyword.arg for keyword in call.keywords):
        raise ValueError(f"the arguments {text[:60]!r} are not of the form name=value")
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def _format(
    calls: dict[str, Any],
    reasoning: tuple[str, str] = ("<think>", "</think>"),
    *,
    arguments: Callable[[str], dict[str, Any]] | None = None,
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
    return CallFormat(template, arguments)


def _named(name: str = "{name}", arguments: str = "{content}") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


# The end of a call, and of the list of calls.
PYTHON_CLOSE = r"(?<=['\"])\)(?:\s*(?=,\s*\w+\()|\s*\](?:<\|tool_call_end\|>)?)"
# A value in quotes ends at a quote that a comma and the next argument, or nothing, follow: it may contain quotes.
_PYTHON_ARGUMENT = (
    r"(?P<key>\w+)\s*=\s*(?:'(?P<value>.*?)'(?=\s*(?:,\s*\w+\s*=|$))|\"(?P<value>.*?)\"(?=\s*(?:,\s*\w+\s*=|$))"
    r"|(?P<value>[^,]+))"
)

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
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": _named(),
        }
    ),
    # {"name": ..., "parameters": {...}}: Llama 3.1 to 4
    "bare_json": _format(
        {
            "open_pattern": r'(?:<\|python_(?:tag|start)\|>)?(?=\{\s*"name"\s*:)',
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
    # [NAME(key='value')] between <|tool_call_start|> and <|tool_call_end|>: LFM 2. Some templates escape quotes.
    "python_escaped": _format(
        {
            "open_pattern": r"(?:<\|tool_call_start\|>\[|,\s*)(?P<name>\w+)\(",
            "close_pattern": PYTHON_CLOSE,
            "transform": _named(),
        },
        arguments=python_arguments,
    ),
    "python": _format(
        {
            "open_pattern": r"(?:<\|tool_call_start\|>\[|,\s*)(?P<name>\w+)\(",
            "close_pattern": PYTHON_CLOSE,
            "content": "xml-inline",
            "content_args": {"tag_pattern": _PYTHON_ARGUMENT},
            "transform": _named(),
        }
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
