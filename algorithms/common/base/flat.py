"""Nested settings as one dictionary with dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(content: Mapping[str, Any], prefix: str = "", *, lists: bool = False) -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; with `lists`, lists are flattened too: `{"a.0": 1}`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if lists and isinstance(value, list):
            value = {str(place): item for place, item in enumerate(value)}
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.", lists=lists) if nested else {f"{prefix}{key}": value}
    return found
