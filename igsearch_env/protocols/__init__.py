"""Protocols: the text formats of actions and observations.

To add one, write its class in its own file and list the class in `PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Callable

from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.protocols.actions import MAX_ACTION_CHARS, Action, ActionSpan, Answer, Invalid, Role, Search
from igsearch_env.protocols.autorefine import AutoRefine
from igsearch_env.protocols.prompts import BARE
from igsearch_env.protocols.protocol import Protocol
from igsearch_env.protocols.search_r1 import SearchR1
from igsearch_env.protocols.tags import parse
from igsearch_env.protocols.tool_calls import ToolCalls
from retrievers.reading import FileError, read_text

PROTOCOLS: dict[str, type[Protocol]] = {protocol.name: protocol for protocol in (SearchR1, AutoRefine, ToolCalls)}
PROMPTS: dict[str, str] = {"bare": BARE, **{name: protocol.own_prompt for name, protocol in PROTOCOLS.items()}}
"""Prompt templates by name."""

__all__ = [
    "MAX_ACTION_CHARS",
    "PROMPTS",
    "PROTOCOLS",
    "Action",
    "ActionSpan",
    "Answer",
    "Invalid",
    "Protocol",
    "Role",
    "Search",
    "ToolCalls",
    "as_protocol",
    "make_protocol",
    "parse",
]


def make_protocol(
    name: str = "search_r1", prompt: str = "", cut: Callable[[str], str] | None = None, system: str = ""
) -> Protocol:
    """A protocol by name.

    Args:
        name: a key of `PROTOCOLS`.
        prompt: a key of `PROMPTS`, a template with `{question}` in it, or `@FILE` with such a template. Default: the
            protocol's own.
        cut: see `Protocol`.
        system: the system part of the prompt, or `@FILE` with it, without white space around it; see `Protocol`.

    Raises `ConfigurationError` for an unknown name or template, or a file that can't be read.
    """
    check_choice("protocol", name, PROTOCOLS)
    template, shown = PROMPTS.get(prompt, prompt), repr(prompt)
    if prompt.startswith("@"):
        template = _read(prompt, "prompt")
        shown = f"{prompt!r} ({template[:80]!r})"
    if template and "{question}" not in template:
        raise ConfigurationError(
            f"prompt={shown}: neither a name ({', '.join(PROMPTS)}) nor a template; templates must contain {{question}}"
        )
    return PROTOCOLS[name](template, cut, (_read(system, "system") if system.startswith("@") else system).strip())


def _read(named: str, argument: str) -> str:
    """The text of the file in `@FILE`."""
    try:
        return read_text(named[1:])
    except FileError as error:
        raise ConfigurationError(f"{argument}={named!r}: {error}; pass a UTF-8 text file") from error


def as_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of this name with its own prompt, or the protocol itself."""
    return make_protocol(protocol) if isinstance(protocol, str) else protocol
