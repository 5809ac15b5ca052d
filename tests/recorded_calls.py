"""Which methods and functions were called, in order."""

from __future__ import annotations

from typing import Any

import pytest


def record_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: list[str]) -> None:
    """From now on, a call of `owner`'s `name` adds the name to `calls`; it does what it did."""
    own = getattr(owner, name)

    def recorded(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return own(*arguments, **options)

    monkeypatch.setattr(owner, name, recorded)
