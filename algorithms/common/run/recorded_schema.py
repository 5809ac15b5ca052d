"""The form of a file of recorded trajectories, by which a file is checked when it is read."""

from __future__ import annotations

from typing import (
    Any,
    NotRequired,  # pydantic needs this TypedDict before Python 3.12
)

from typing_extensions import TypedDict


class RecordedGain(TypedDict):
    """`Gain`."""

    value: float | None
    logprob_real: float | None
    logprob_baseline: float | None
    baseline_evidences: list[str]


class RecordedPassage(TypedDict):
    """`Passage`; `supporting`: whether its title is one of the question's supporting titles."""

    id: str
    title: str
    text: str
    score: float | None
    supporting: NotRequired[bool | None]


class RecordedTurn(TypedDict):
    """`Turn`, with the text of each token."""

    action: str
    content: str | None
    tokens: list[str]
    advantages: dict[str, list[float | None]]
    logprobs: list[float | None]
    query_span: tuple[int, int] | None
    observation: str
    passages: list[RecordedPassage]
    gain: RecordedGain | None
    gain_of: NotRequired[dict[str, RecordedGain | None]]
    weights_version: NotRequired[int]


class RecordedTrajectory(TypedDict):
    """`Trajectory`."""

    prediction: str | None
    outcome: float | None
    correct: bool
    stop_reason: str
    attempts: NotRequired[list[tuple[int, str | None, float | None]]]
    turns: list[RecordedTurn]


class RecordedQuestion(TypedDict):
    """`Question`."""

    id: str
    text: str
    golden_answers: list[str]
    dataset: str


class RecordedGroup(TypedDict):
    """`Group`."""

    question: RecordedQuestion
    prompt: str
    trajectories: list[RecordedTrajectory]


class RecordedFile(TypedDict):
    """A whole file."""

    format: int
    step: int | None
    algorithms: list[str]
    groups: list[RecordedGroup]
    metadata: NotRequired[dict[str, Any]]
