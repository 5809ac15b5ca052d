"""Errors of the environment. Each message names the value, the rule and the repair.

    IGSearchError
    ├── ConfigurationError     an invalid argument or configuration value
    ├── QuestionError          an invalid question or question file
    └── ScoringError           a scorer failed on a valid request (server down, time-out, malformed response)

A malformed action is not an error: it is parsed into `protocols.Invalid`, since a policy may write anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from retrievers.credentials import masked


class IGSearchError(Exception):
    """Base of every error of this package. Credentials in the message are masked.

    `exit_status` is that of a program which the error ends (`retrievers/program.py`).
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*map(masked, args))


class ConfigurationError(IGSearchError, ValueError):
    """An invalid argument or configuration value."""


class QuestionError(IGSearchError, ValueError):
    """An invalid question or question file."""


class UnscorableError(QuestionError):
    """No golden answer of a question can be scored: normalisation leaves nothing of any of them."""


class ScoringError(IGSearchError, RuntimeError):
    """A scorer failed on a valid request: its server is down or late, or sends no usable log-probs."""

    exit_status = 1


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `ConfigurationError` unless `value` is one of `choices`; the message suggests the closest one."""
    choices = list(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}{hint}")


def literal_choices(hint: Any) -> tuple[Any, ...]:
    """The values allowed by `Literal`, `Literal | None` or `tuple[Literal, ...]`; empty for any other type."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in literal_choices(part))


def check_literals(settings: Any, section: str = "") -> None:
    """Apply `check_choice` to every dataclass field with a `Literal` type.

    Types alone are not enough: a configuration file, or code without a type checker, may pass any string.

    Args:
        settings: the dataclass instance to check; fields of subclasses are included.
        section: its path in the configuration, used in messages; "" at the top level.
    """
    for name, hint in get_type_hints(type(settings)).items():
        choices = literal_choices(hint)
        value = getattr(settings, name)
        if not choices or (value is None and NoneType in get_args(hint)):
            continue
        for item in value if isinstance(value, (tuple, list)) else (value,):
            check_choice(f"{section}.{name}" if section else name, item, choices)


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise `ConfigurationError` unless `value` is a number and low <= value <= high (NaN fails)."""
    if not isinstance(value, Real) or not low <= value <= high:
        bound = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ConfigurationError(f"{name}={value!r}: must be {bound}")
