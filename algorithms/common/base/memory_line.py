"""`MemoryLine`: one line of a memory plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryLine:
    """One thing that takes memory, in bytes: always, or in one phase of a step only."""

    name: str
    bytes: int
    detail: str
    phase: str = "always"
