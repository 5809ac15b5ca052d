"""Rollout buffers of the tests: out of masks and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from algorithms.common.rollout.buffer import RolloutBuffer
from igsearch.testing.buffers import PROMPT_IDS, answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.trajectory import Turn


def reward_buffer(rewards: Sequence[Sequence[float]], tokens: int = 3) -> RolloutBuffer:
    """Single-turn episodes with these outcome rewards, one list per group."""
    return buffer_of(
        [
            [trajectory([answer_turn(range(10, 10 + tokens))], reward, number) for reward in group]
            for number, group in enumerate(rewards)
        ]
    )


def mask_buffer(mask: Sequence[Sequence[float]]) -> RolloutBuffer:
    """One trajectory per row: runs of ones are turns, runs of zeros what was read before or after them."""
    members = []
    for row in mask:
        prompt, turns = list(PROMPT_IDS), list[Turn]()
        for written, run in groupby(enumerate(row), key=lambda token: bool(token[1])):
            ids = [100 + column for column, _ in run]
            if written:
                turns.append(search_turn(ids))
            elif turns:
                turns[-1].observation_ids = tuple(ids)
            else:
                prompt += ids
        members.append(trajectory(turns, prompt_ids=prompt))
    return buffer_of([members])


def mixed_buffer(*, observed: int = 3) -> RolloutBuffer:
    """Episodes of several lengths, with `observed` tokens between their turns."""
    seen = [9] * observed
    return buffer_of(
        [
            [
                trajectory([search_turn((2, 3), observation_ids=seen), answer_turn((4, 5, 6))], 1.0),
                trajectory([answer_turn((7, 8))], 0.0),
            ],
            [
                trajectory(
                    [
                        search_turn((2,), observation_ids=seen),
                        search_turn((3, 4, 5, 6), observation_ids=[*seen, *seen]),
                        answer_turn((8,)),
                    ],
                    0.5,
                    1,
                )
            ],
        ]
    )
