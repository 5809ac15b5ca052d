"""Small rollout buffers for the tests: turns out of token ids, buffers out of masks and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from algorithms.common.rollout.buffer import RolloutBuffer
from igsearch_env.protocols import Answer, Search
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, Gain, Group, Trajectory, Turn

PROMPT_IDS = (1,)


def question(number: int = 0) -> Question:
    """The `number`-th of as many questions as a test wants."""
    return Question(f"q{number}", f"Question {number}?", (f"answer {number}", "alias"), "made_up")


def search_turn(
    ids: Sequence[int],
    query: tuple[int, int] | None = None,
    gain: float | None = None,
    observation_ids: Sequence[int] = (),
    logprobs: Sequence[float] | None = None,
) -> Turn:
    """A search that was written as `ids`, its query being the tokens `query`, worth `gain` nats."""
    return Turn(
        text="<search>x</search>",
        action=Search("x"),
        gain=None if gain is None else Gain(gain, gain, 0.0),
        completion_ids=tuple(ids),
        logprobs=tuple(logprobs) if logprobs is not None else tuple(-0.5 for _ in ids),
        query_span=query,
        observation_ids=tuple(observation_ids),
    )


def answer_turn(ids: Sequence[int], logprobs: Sequence[float] | None = None) -> Turn:
    """An answer that was written as `ids`."""
    return Turn(
        text="<answer>y</answer>",
        action=Answer("y"),
        completion_ids=tuple(ids),
        logprobs=tuple(logprobs) if logprobs is not None else tuple(-0.25 for _ in ids),
    )


def trajectory(
    turns: Sequence[Turn], outcome: float = 0.0, number: int = 0, prompt_ids: Sequence[int] = PROMPT_IDS
) -> Trajectory:
    """A finished episode of question `number`."""
    return Trajectory(question(number), "prompt", list(turns), "y", outcome, ANSWERED, tuple(prompt_ids))


def buffer_of(groups: Sequence[Sequence[Trajectory]]) -> RolloutBuffer:
    """One group per list; the question is that of its first trajectory."""
    return RolloutBuffer([Group(members[0].question, list(members)) for members in groups])


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
