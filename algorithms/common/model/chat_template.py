"""`ChatRenderer` puts messages into a chat template; `ChatTemplate` is what it gets besides them: a date, arguments.

A template is a program. Some write the date of the day into every prompt (`strftime_now`, or `date_string` in
Llama 3.1's), so a run that is resumed on another day would read other prompts. Here they all get one date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from igsearch_env.errors import ConfigurationError

DATE = "2024-07-26"  # the default of Llama 3.1's template
# Arguments of `apply_chat_template` itself, and variables that it sets.
RESERVED = frozenset(
    {"conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
    | {"padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"}
    | {"tokenizer_kwargs", "processor_kwargs", "raise_exception"}
)
DATED = frozenset({"strftime_now", "date_string"})
_DIRECTIVES = {"": "aAwdbBmyYHIpMSfzZjUWcxXGuVCDeFghnrRtT", "-": "dmyHIMSj"}  # of strftime, without and with a flag
_PERCENT = "\u2063percent\u2063"  # stands for %% while the directives are replaced
_RANDOM = re.compile(r"\|\s*random\b")


@dataclass(frozen=True)
class ChatTemplate:
    """The date and the arguments for a chat template."""

    date: date = field(default_factory=lambda: date.fromisoformat(DATE))
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, day: str, arguments: str, section: str = "policy.") -> ChatTemplate:
        """From the values of the two options, whose names begin with `section`.

        Raises `ConfigurationError` if `day` is no date like 2024-07-26, or `arguments` no JSON object.
        """
        try:
            parsed = date.fromisoformat(day)
        except ValueError as error:
            raise ConfigurationError(
                f"{section}chat_template_date={day!r}: not a date ({error}); write it as {DATE}"
            ) from error
        try:
            values = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            values = error
        if not isinstance(values, dict):
            raise ConfigurationError(
                f"{section}chat_template_arguments={arguments!r}: not a JSON object; "
                """write the arguments as e.g. '{"enable_thinking": false}'"""
            )
        for name in values:
            if name in RESERVED or name in DATED:
                instead = f"set {section}chat_template_date" if name in DATED else "leave it out"
                raise ConfigurationError(
                    f"{section}chat_template_arguments: {name!r} is set by this project; {instead}"
                )
        return cls(parsed, values)

    def check(self, template: object) -> None:
        """Raise `ConfigurationError` if the template does not read an argument, or draws at random."""
        text = json.dumps(template, default=str) if isinstance(template, (dict, list)) else str(template)
        for name in self.arguments:
            if not re.search(rf"\b{re.escape(name)}\b", text):
                raise ConfigurationError(
                    f"policy.chat_template_arguments: the tokenizer's chat template does not read {name!r}, so it "
                    "would change nothing; leave it out, or check its spelling"
                )
        if _RANDOM.search(text):
            raise ConfigurationError(
                "policy.chat=True: the tokenizer's chat template draws at random (`|random`), so that no prompt could "
                "be repeated; set policy.chat to false, or tokenizer.chat_template to one that does not"
            )

    @property
    def variables(self) -> dict[str, Any]:
        """Keyword arguments for `apply_chat_template`."""
        return {"date_string": self.date.strftime("%d %b %Y"), **self.arguments}

    def dated(self, template: str) -> str:
        """The template with a `strftime_now` of its own, in place of the one of transformers, which reads the clock.

        transformers passes no functions to a template, so this one is a macro: it replaces the directives one by one.
        """
        if "strftime_now" not in template:
            return template
        noon = datetime(self.date.year, self.date.month, self.date.day, 12)
        values = [(f"%{flag}{c}", noon.strftime(f"%{flag}{c}")) for flag, cs in _DIRECTIVES.items() for c in cs]
        pairs = [("%%", _PERCENT), *values, (_PERCENT, "%")]
        replaced = "".join(f"|replace({json.dumps(old)}, {json.dumps(new)})" for old, new in pairs)
        # The expression at the end keeps a line break that the template begins with.
        return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"

    @property
    def canonical(self) -> str:
        """The arguments as JSON, equal for equal arguments; empty if there are none."""
        return json.dumps(self.arguments, sort_keys=True) if self.arguments else ""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Date and arguments as plain data."""
        return {"date": self.date.isoformat(), "arguments": self.canonical}


class ChatRenderer:
    """Renders messages with the chat template of a tokenizer of transformers."""

    def __init__(self, hf_tokenizer: Any, chat_template: ChatTemplate) -> None:
        self.hf_tokenizer = hf_tokenizer
        self.chat_template = chat_template

    def _template(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """The chat template with a fixed date; None if it needs none."""
        own = self.hf_tokenizer.chat_template
        if isinstance(own, dict):  # the one that transformers would choose
            own = own.get("tool_use" if tools and "tool_use" in own else "default")
        dated = self.chat_template.dated(own) if isinstance(own, str) else own
        return None if dated == own else dated

    def render(
        self, chat: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = (), reply: bool = True
    ) -> str:
        """Messages in the chat template; with `reply` up to the start of the assistant's next one.

        Raises `ConfigurationError` if the template does not accept them.
        """
        try:
            return str(
                self.hf_tokenizer.apply_chat_template(
                    [dict(message) for message in chat],
                    chat_template=self._template(tools),
                    tools=[dict(tool) for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=reply,
                    **self.chat_template.variables,
                )
            )
        except Exception as error:  # a template is a program and may raise anything
            raise ConfigurationError(
                f"policy.chat=True: the tokenizer's chat template does not accept the messages "
                f"{', '.join(str(message['role']) for message in chat)} ({error}); set policy.chat to false, or "
                "tokenizer.chat_template to one that does"
            ) from error


SYSTEM, USER = "\u2063system\u2063", "\u2063user\u2063"  # placeholders for messages; no template contains them


def with_system(render: Callable[..., str], system: str, prompt: str) -> tuple[str, str, str, str, str]:
    """A system and a user message in a chat template: the texts before, of, between, of and after the two messages.

    `render`: messages (role, text) in the chat template, up to the start of the assistant's reply. Raises
    `ConfigurationError` if the template rejects or drops a system message.
    """
    try:
        before, found, rest = render(("system", SYSTEM), ("user", USER)).partition(SYSTEM)
        reason = "it drops the message"
    except ConfigurationError as error:
        found, rest, reason = "", "", str(error)
    if not found or USER not in rest:
        raise ConfigurationError(
            f"env.system_prompt={system[:60]!r}: the tokenizer's chat template takes no system message ({reason}); "
            "leave it empty, and put its text at the beginning of the template of env.prompt"
        )
    between, _, after = rest.partition(USER)
    head, _, _ = render(("system", system), ("user", USER)).partition(USER)
    whole = render(("system", system), ("user", prompt))
    said = head[len(before) : len(head) - len(between)]
    return before, said, between, whole[len(head) : len(whole) - len(after)], after
