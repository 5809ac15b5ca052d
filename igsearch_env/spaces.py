"""Spaces of text and of actions. Gymnasium's `Text` only allows a fixed alphabet; language needs all of Unicode.

Gymnasium's vector environments of processes (`vectorization_mode="async"`) pass observations through shared memory:
the functions at the end of this file are its form of a `UnicodeText`.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from ctypes import c_uint32
from typing import Any, overload

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Answer, Search


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
        return type(other) is type(self) and isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash((type(self), self.max_length))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.max_length})"


class ActionSpace(UnicodeText):
    """What an environment accepts as an action: text of a policy, `Search(query)` or `Answer(text)`.

    Samples are strings. A query and an answer have at most `max_length` characters, too.
    """

    def contains(self, x: Any) -> bool:
        content = x.query if isinstance(x, Search) else x.text if isinstance(x, Answer) else x
        return super().contains(content)


# ---------------------------------------------------------------- shared memory of AsyncVectorEnv


class SharedTexts(Sequence[str]):
    """The strings in shared memory, as they are when they are read; a copy of it is a tuple.

    Layout: `n` rows of 1 + max_length numbers: the length of the string, then its code points.
    """

    def __init__(self, memory: Any, n: int) -> None:
        self._rows = np.frombuffer(memory, dtype=np.uint32).reshape(n, -1)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return bytes(row[1 : 1 + int(row[0])].tobytes()).decode(_encoding, "surrogatepass")

    def __len__(self) -> int:
        return len(self._rows)

    def __deepcopy__(self, memo: Any) -> tuple[str, ...]:
        return tuple(self)

    def write(self, index: int, text: str) -> None:
        """Replace string number `index`. Raises `ConfigurationError` if it is too long."""
        most = self._rows.shape[1] - 1
        if len(text) > most:
            raise ConfigurationError(
                f"an observation has {len(text)} characters, and at most {most} fit the shared memory: retrieve fewer "
                'or shorter passages, or pass vector_kwargs={"shared_memory": False}'
            )
        row = self._rows[index]
        row[1 : 1 + len(text)] = np.frombuffer(text.encode(_encoding, "surrogatepass"), dtype=np.uint32)
        row[0] = len(text)


_encoding = f"utf-32-{'le' if np.little_endian else 'be'}"


@create_shared_memory.register(UnicodeText)
def _create(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    return ctx.RawArray(c_uint32, n * (1 + space.max_length))


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Any, n: int = 1) -> SharedTexts:
    return SharedTexts(shared_memory, n)


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, value: str, shared_memory: Any) -> None:
    rows = len(shared_memory) // (1 + space.max_length)
    SharedTexts(shared_memory, rows).write(index, value)
