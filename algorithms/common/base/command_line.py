"""Command lines from dataclasses, with tyro: booleans are flags, and what is wrong is said in one line.

An option is a field of the dataclass (`--steps 3`), or of a section, which is a dataclass inside it
(`--loss.kl-coef 0.1`). A boolean takes no value: `--policy.chat` or `--no-policy.chat`; one that is None by default is
left out for it. A YAML file has the same names as nested keys, with underscores (`yaml_options.py`).
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

import tyro

from algorithms.common.base.option_words import checked_words, may_be_left_open, negative_of_tyro, option_types, spelled
from igsearch_env.errors import IGSearchError
from retrievers.base import RetrieverError
from retrievers.credentials import masked
from retrievers.log_lines import show_log_lines
from retrievers.program import quiet_if_cut, refuse

C = TypeVar("C")
NOTHING: Mapping[str, str] = MappingProxyType({})


def parse_options(
    cls: type[C],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    renamed: Mapping[str, str] = NOTHING,
) -> C:
    """Parse the command line into a dataclass, and show log messages from then on. Exits with code 2 if it is invalid.

    Args:
        cls: the dataclass; the docstrings of its fields are the help texts.
        arguments: command-line arguments; None: those of this process.
        description: text at the top of the help.
        renamed: old names of options and their current ones, dotted: `{"loss.kl_coefficient": "loss.kl_coef"}`.
    """
    show_log_lines()
    try:
        words = checked_words(command_line() if arguments is None else arguments, cls, renamed)
    except IGSearchError as error:
        refuse(error)
    help_text: Any = _HelpText(sys.stdout, option_types(cls))
    with quiet_if_cut(), contextlib.redirect_stdout(help_text):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return tyro.cli(cls, args=words, description=description)
        except SystemExit as end:
            if not end.code:
                raise
            cause = _cause(end)
        if cause is not None:
            refuse(cause)
        return tyro.cli(cls, args=masked(words), description=description)  # tyro's own message, which repeats arguments


def _cause(end: BaseException) -> Exception | None:
    """The error of this project that led tyro to exit: that of a dataclass whose values are out of range."""
    found: BaseException | None = end
    while found is not None and not isinstance(found, (IGSearchError, RetrieverError)):
        found = found.__cause__ or found.__context__
    return found


def command_line() -> list[str]:
    """The arguments of this process. From then on `sys.argv` is masked, for trackers and others that record it."""
    arguments = sys.argv[1:]
    sys.argv[1:] = masked(arguments)
    return arguments


_STYLE = r"(?:\x1b\[[\d;]*m)*"


def _with_both_flags(text: str, key: str) -> str:
    """Help with `--chat, --no-chat` where tyro writes `--chat {None,True,False}`; columns stay aligned."""
    name, negative, values = spelled(key), spelled(key, "--no-"), "{None,True,False}"

    def flags(found: re.Match[str]) -> str:
        end = f"{negative:{len(values) + len(found[2]) - 1}}"
        return f"{name},{found[1]}{end}"

    return re.sub(rf"{re.escape(name)}({_STYLE} {_STYLE}){re.escape(values)}( *)", flags, text)


class _HelpText:
    """Standard output with `--no-policy.chat` where tyro's help writes `--policy.no-chat`."""

    def __init__(self, stream: TextIO, types: Mapping[str, Any]) -> None:
        self.stream = stream
        self.types = types

    def write(self, text: str) -> int:
        for key, hint in self.types.items():
            if hint is bool:  # equally long, so columns stay aligned
                text = text.replace(negative_of_tyro(key), spelled(key, "--no-"))
            elif may_be_left_open(hint):
                text = _with_both_flags(text, key)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:  # colours and frames depend on isatty and encoding
        return getattr(self.stream, name)
