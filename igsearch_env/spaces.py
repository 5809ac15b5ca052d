"""A space of text. Gymnasium's `Text` only allows a fixed alphabet; natural language needs all of Unicode."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import Space


class UnicodeText(Space[str]):
    """All strings of at most `max_length` characters. Samples are short and printable."""

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A random printable string of at most 64 characters; masks are not supported."""
        length = int(self.np_random.integers(0, min(64, self.max_length) + 1))
        return "".join(self.np_random.choice(list(string.printable), length))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"
