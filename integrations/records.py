"""Episodes as JSON strings, which travel with the rollouts of another trainer; torch is not needed."""

from __future__ import annotations

import json

from algorithms.common.rollout.buffer_json import group_row, read_group
from igsearch_env.trajectory import Group, Trajectory
from retrievers.reading import parse_json


def dump_episode(trajectory: Trajectory) -> str:
    """An episode as a JSON string, which any transport between processes can carry."""
    return json.dumps(group_row(Group(trajectory.question, [trajectory])), ensure_ascii=False)


def load_episode(text: str, where: str = "episode") -> Trajectory:
    """The episode that `dump_episode` wrote. Raises `FileError` that begins with `where` for anything else."""
    return read_group(parse_json(text.encode("utf-8", "surrogatepass"), where), where).trajectories[0]
