"""Files that run code when they are unpickled or imported."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class Bomb:
    """Creates the file `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    """A pickle that creates `mark`."""
    return pickle.dumps(Bomb(mark))


def module(mark: Path) -> str:
    """A module of Python that creates `mark` when it is imported."""
    lines = ("from pathlib import Path", f"Path({str(mark)!r}).touch()", "class Evil:", "    pass")
    return "\n".join((*lines, "EvilConfig = EvilModel = Evil", ""))
