"""Groups as rows of JSON, a row per group of a saved buffer: `group_row` writes one, `read_group` reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from igsearch_env.protocols import Action, Answer, Invalid, Search
from igsearch_env.questions import Question
from igsearch_env.trajectory import Attempt, Gain, Group, Trajectory, Turn
from retrievers.base import Passage

ACTIONS: dict[str, Callable[[str], Action]] = {"Search": Search, "Answer": Answer, "Invalid": Invalid}


def group_row(group: Group) -> dict[str, Any]:
    """A group as plain data."""
    return {
        "question": _question_row(group.question),
        "trajectories": [_trajectory_row(trajectory) for trajectory in group.trajectories],
        "failed": group.failed,
    }


def read_group(row: dict[str, Any]) -> Group:
    """The group that `group_row` wrote."""
    question = Question(**{**row["question"], "golden_answers": tuple(row["question"]["golden_answers"])})
    members = [_trajectory(question, trajectory) for trajectory in row["trajectories"]]
    return Group(question, members, row.get("failed", 0))  # missing in older files


def _question_row(question: Question) -> dict[str, Any]:
    metadata = {k: v for k, v in question.metadata.items() if isinstance(v, (str, int, float, bool, list))}
    return {
        "id": question.id,
        "text": question.text,
        "golden_answers": list(question.golden_answers),
        "dataset": question.dataset,
        "metadata": metadata,
    }


def _trajectory_row(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "prompt": trajectory.prompt,
        "prompt_ids": trajectory.prompt_ids,
        "prediction": trajectory.prediction,
        "outcome": trajectory.outcome,
        "stop_reason": trajectory.stop_reason,
        "attempts": [[a.end, a.prediction, a.outcome] for a in trajectory.attempts],
        "turns": [_turn_row(turn) for turn in trajectory.turns],
    }


def _turn_row(turn: Turn) -> dict[str, Any]:
    kind = type(turn.action).__name__
    return {
        "text": turn.text,
        "action": [kind, *asdict(turn.action).values()],
        "observation": turn.observation,
        "passages": [[p.id, p.title, p.text, p.score] for p in turn.passages],
        "gain": None if turn.gain is None else asdict(turn.gain),
        "reward": turn.reward,
        "completion_ids": turn.completion_ids,
        "logprobs": turn.logprobs,
        "query_span": turn.query_span,
        "search_span": turn.search_span,
        "observation_ids": turn.observation_ids,
    }


def _trajectory(question: Question, row: dict[str, Any]) -> Trajectory:
    return Trajectory(
        question,
        row["prompt"],
        [_turn(turn) for turn in row["turns"]],
        row["prediction"],
        row["outcome"],
        row["stop_reason"],
        tuple(row["prompt_ids"]),
        [Attempt(*fields) for fields in row["attempts"]],
    )


def _turn(row: dict[str, Any]) -> Turn:
    kind, value = row["action"]
    gain = row["gain"]
    return Turn(
        text=row["text"],
        action=ACTIONS[kind](value),
        observation=row["observation"],
        passages=tuple(Passage(*fields) for fields in row["passages"]),
        gain=None if gain is None else Gain(**{**gain, "baseline_evidences": tuple(gain["baseline_evidences"])}),
        reward=row["reward"],
        completion_ids=tuple(row["completion_ids"]),
        logprobs=tuple(row["logprobs"]),
        query_span=None if row["query_span"] is None else (row["query_span"][0], row["query_span"][1]),
        search_span=None if row["search_span"] is None else (row["search_span"][0], row["search_span"][1]),
        observation_ids=tuple(row["observation_ids"]),
    )
