"""What an algorithm is, to the trainer."""

from __future__ import annotations

from typing import Protocol

from algorithms.common.buffer import Floats, RolloutBuffer
from igsearch_env.trajectory import Group


class Algorithm(Protocol):
    """An estimator of advantages. The trainer knows nothing else of an algorithm."""

    name: str
    """Names run folders."""
    needs_information_gain: bool
    """Whether every search's `gain` must be measured before `advantages` is called."""

    def advantages(self, buffer: RolloutBuffer) -> Floats:
        """One advantage per policy token, in the buffer's flat layout."""
        ...

    def keep(self, group: Group) -> bool:
        """Whether a group may teach; groups that may not are replaced by fresh ones (DAPO's dynamic sampling)."""
        ...
