"""Small rollout buffers by hand: turns out of token ids, trajectories out of turns, buffers out of trajectories."""

from __future__ import annotations

from collections.abc import Sequence

from algorithms.common.rollout.buffer import RolloutBuffer
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, Gain, Group, Trajectory, Turn
from retrievers.base import Passage

PROTOCOL = make_protocol()
PROMPT_IDS = (1,)


def question(number: int = 0) -> Question:
    """Question `number`, whose first golden answer is "answer NUMBER"."""
    return Question(f"q{number}", f"Question {number}?", (f"answer {number}", "alias"), "made_up")


def search_turn(
    ids: Sequence[int],
    query: tuple[int, int] | None = None,
    gain: float | None = None,
    observation_ids: Sequence[int] = (),
    logprobs: Sequence[float] | None = None,
    passages: Sequence[Passage] = (),
) -> Turn:
    """A search.

    Args:
        ids: the policy tokens of the turn.
        query: start and end of the query's tokens in `ids`; None: the query has no token.
        gain: information gain in nats, of a baseline of 0; None: the search found no passages.
        observation_ids: tokens of the passages that are read after it.
        logprobs: one per policy token; -0.5 each by default.
        passages: what it found.
    """
    return Turn(
        text=PROTOCOL.write(Search("x")),
        action=Search("x"),
        passages=tuple(passages),
        gain=None if gain is None else Gain(gain, gain, 0.0),
        completion_ids=tuple(ids),
        logprobs=tuple(logprobs) if logprobs is not None else tuple(-0.5 for _ in ids),
        query_span=query,
        observation_ids=tuple(observation_ids),
    )


def answer_turn(ids: Sequence[int], logprobs: Sequence[float] | None = None) -> Turn:
    """An answer; `ids` are the policy tokens of the turn, `logprobs` -0.25 each by default."""
    return Turn(
        text=PROTOCOL.write(Answer("y")),
        action=Answer("y"),
        completion_ids=tuple(ids),
        logprobs=tuple(logprobs) if logprobs is not None else tuple(-0.25 for _ in ids),
    )


def trajectory(
    turns: Sequence[Turn], outcome: float = 0.0, number: int = 0, prompt_ids: Sequence[int] = PROMPT_IDS
) -> Trajectory:
    """A finished episode of question `number`: `outcome` is its reward in [0, 1], `turns` what the policy wrote."""
    return Trajectory(question(number), "prompt", list(turns), "y", outcome, ANSWERED, tuple(prompt_ids))


def buffer_of(groups: Sequence[Sequence[Trajectory]]) -> RolloutBuffer:
    """One group per list; the question is that of its first trajectory."""
    return RolloutBuffer([Group(members[0].question, list(members)) for members in groups])
