"""Which searches of a group are compared: the n-th search of an episode with the n-th searches of its siblings."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.sequences import QueryTokens


def sibling_searches(buffer: RolloutBuffer, searches: Sequence[QueryTokens]) -> list[int]:
    """A number for each search, equal for those at the same place among the searches of episodes of one group."""
    is_search = attrgetter("is_search")
    place = {id(turn): n for t in buffer.trajectories for n, turn in enumerate(filter(is_search, t.turns))}
    return [place[id(turn)] * len(buffer.groups) + int(buffer.group_index[row]) for row, turn, _ in searches]
