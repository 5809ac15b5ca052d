"""`MemoryLine`: one line of a memory plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryLine:
    """One use of memory, in bytes: always, or only in one phase of a step."""

    name: str
    bytes: int
    detail: str
    phase: str = "always"
