"""Errors of the environment. Each message names the value, the rule and the repair.

    IGSearchError
    ├── ConfigurationError     an argument or configuration value that can't be used
    └── QuestionError          a question file or question that can't be used

A malformed action is not an error but a typed `protocol.Invalid`: a policy may write anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IGSearchError(Exception):
    """Base of every error of this package."""


class ConfigurationError(IGSearchError, ValueError):
    """A setting that breaks a rule."""


class QuestionError(IGSearchError, ValueError):
    """A question, or a file of them, that can't be used."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `ConfigurationError` unless `value` is one of `choices`; suggests the nearest."""
    choices = list(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}{hint}")


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise `ConfigurationError` unless low <= value <= high (NaN fails)."""
    if not low <= value <= high:
        bound = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ConfigurationError(f"{name}={value!r}: must be {bound}")
