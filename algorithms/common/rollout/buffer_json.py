"""Groups as rows of JSON, a row per group of a saved buffer: `group_row` writes one, `read_group` reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, get_args

from algorithms.common.base.typed import as_type
from igsearch_env.protocols import Action, Answer, Invalid, Role, Search
from igsearch_env.questions import Question
from igsearch_env.trajectory import Group, Trajectory, Turn
from retrievers.reading import FileError

ACTIONS: dict[str, Callable[..., Action]] = {"Search": Search, "Answer": Answer, "Invalid": Invalid}


def group_row(group: Group) -> dict[str, Any]:
    """A group as plain data."""
    return {
        "question": _question_row(group.question),
        "trajectories": [_trajectory_row(trajectory) for trajectory in group.trajectories],
        "failed": group.failed,
    }


def read_group(row: Any, where: str) -> Group:
    """The group that `group_row` wrote. Raises `FileError` that begins with `where` for anything else."""
    try:
        question = as_type(Question, row["question"], f"{where}: question")
        trajectories = [_trajectory(question, trajectory, where) for trajectory in row["trajectories"]]
        failed = as_type(int, row.get("failed", 0), f"{where}: failed")  # missing in older files
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(where, f"{type(error).__name__}: {error}") from error
    return Group(question, trajectories, failed)


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
        **({"system": trajectory.system} if trajectory.system else {}),
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
        "observation_role": turn.observation_role,
        "weights_version": turn.weights_version,
    }


def _trajectory(question: Question, row: dict[str, Any], where: str) -> Trajectory:
    attempts = [dict(zip(("end", "prediction", "outcome"), fields, strict=True)) for fields in row["attempts"]]
    content = {**row, "question": question, "attempts": attempts, "turns": [_turn(turn) for turn in row["turns"]]}
    return as_type(Trajectory, content, f"{where}: trajectory")


def _turn(row: dict[str, Any]) -> dict[str, Any]:
    kind, *values = row["action"]
    if not all(isinstance(value, str) for value in values) or set(values[1:]) - {*get_args(Role)}:
        raise TypeError(f"{kind} of {str(values)[:60]}")
    passages = [dict(zip(("id", "title", "text", "score"), fields, strict=True)) for fields in row["passages"]]
    return {**row, "action": ACTIONS[kind](*values), "passages": passages}
