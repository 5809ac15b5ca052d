"""Credentials in addresses (`http://USER:PASSWORD@HOST`): used for requests, and masked wherever they could be read.

Every error of this project, a saved configuration, trackers, reports and the representation of a configuration go
through `mask`. A fingerprint has the plain address, so that it is the same with and without credentials. Where a masked
address is opened again, its credentials come from the environment.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

MASK = "***"
# The first form is that of a valid address. In an invalid one, a password may contain any character.
_USERINFO = re.compile(r"(?<=://)(?:[^/?#\s]*|[^\s,]*)@")
_SECRET = re.compile(
    r"([?&][\w.-]*(?:token|key|secret|passw|pwd|auth|sig|credential)[\w.-]*=)[^&\s#'\"]+", re.IGNORECASE
)


def mask(text: str) -> str:
    """The text with *** in place of the credentials of its addresses, and of secrets in their queries."""
    if "://" not in text and "=" not in text:
        return text
    return _SECRET.sub(rf"\1{MASK}", _USERINFO.sub(f"{MASK}@", text))


def masked(value: Any) -> Any:
    """Plain data with every string masked."""
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(masked(item) for item in value)
    return mask(value) if isinstance(value, str) else value


def without_credentials(value: Any) -> Any:
    """Plain data to compare: addresses are the same whoever uses them, and whether or not they were masked."""
    if isinstance(value, dict):
        return {key: without_credentials(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_credentials(item) for item in value)
    return mask(value).replace(f"://{MASK}@", "://") if isinstance(value, str) else value


def split(text: str, separator: str) -> list[str]:
    """The parts of a list of addresses, split at the separators outside their credentials."""
    hidden = {place for found in _USERINFO.finditer(text) for place in range(*found.span())}
    ends = [i for i, character in enumerate(text) if character == separator and i not in hidden]
    return [text[a + 1 : b] for a, b in zip([-1, *ends], [*ends, len(text)], strict=True)]


class MaskedRepr:
    """Base of dataclasses with addresses in them: their representation is masked."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = MaskedRepr.__repr__  # type: ignore[method-assign] # in the class itself, where `dataclass` looks

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type] # a base of dataclasses
            if field.repr
        )
        return mask(f"{type(self).__qualname__}({fields})")
