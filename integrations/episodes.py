"""What adapters report of an episode as plain data: the chat messages of its prompt, and the info of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from igsearch_env.episode import Episode
from igsearch_env.protocols import Protocol
from igsearch_env.questions import Question
from igsearch_env.stepper import step_info
from integrations.settings import question_row

Messages = list[dict[str, str]]


def prompt_messages(protocol: Protocol, question: Question) -> Messages:
    """The first observation as a message of the user."""
    return [{"role": "user", "content": protocol.question_prompt(question.text)}]


def read_prompt(episode: Episode, messages: Sequence[Any]) -> None:
    """Make the text of other messages the prompt of an episode, so that a scorer reads what the policy reads."""
    texts = [str(message["content"]) for message in messages]
    if texts:
        episode.trajectory.prompt = "\n".join(texts)


def plain_info(episode: Episode) -> dict[str, Any]:
    """`info` of the environment with passages as [id, title, text]; every value can be written as JSON."""
    info = step_info(episode)
    if "passages" in info:
        info["passages"] = [[p.id, p.title, p.text] for p in info["passages"]]
    return info


def metrics(episode: Episode) -> dict[str, float]:
    """Numbers of a finished episode: outcome, searches, and the mean information gain of its searches in nats."""
    trajectory = episode.trajectory
    gains = [turn.gain.value for turn in trajectory.turns if turn.gain is not None]
    return {
        "outcome": trajectory.outcome,
        "searches": float(trajectory.searches),
        "information_gain": sum(gains) / len(gains) if gains else 0.0,
        "answered": float(trajectory.stop_reason == "answered"),
    }


def dataset_row(protocol: Protocol, question: Question, **columns: Any) -> dict[str, Any]:
    """A question in the columns that SkyRL and verl read: prompt, reward_spec, reward_model, data_source, extra_info.

    `columns` are added, such as `env_class` of SkyRL or `agent_name` of verl.
    """
    golden = list(question.golden_answers)
    return {
        "data_source": question.dataset,
        "prompt": prompt_messages(protocol, question),
        "reward_spec": {"method": "rule", "ground_truth": golden},
        "reward_model": {"style": "rule", "ground_truth": golden},
        "extra_info": {"question": question_row(question)},
        **columns,
    }


def row_question(extras: Any, where: str) -> Any:
    """The question of a row that `dataset_row` wrote, still as plain data."""
    info = extras.get("extra_info") or {}
    return info.get("question", f"extra_info of {where} without 'question'")
