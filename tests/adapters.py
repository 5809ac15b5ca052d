"""What the tests of `integrations` share: the same episodes, played by the local environment."""

from __future__ import annotations

from typing import Any

from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import Trajectory
from integrations.settings import SearchSettings

SETTINGS: dict[str, Any] = {"questions": "bundled", "max_searches": 3, "seed": 5}


def scripted_turns(question: Question) -> list[str]:
    """A search of the question, an invalid action, a search of its last words, and the golden answer."""
    protocol = make_protocol()
    words = question.text.rstrip("?").split()
    return [
        protocol.write(Search(question.text)),
        "I am not sure.",
        protocol.write(Search(" ".join(words[-3:]))),
        protocol.write(Answer(question.golden_answers[0])),
    ]


def local_episode(question: Question, turns: list[str] | None = None, **settings: Any) -> Trajectory:
    """The scripted episode, played by a stepper of its own, one episode at a time."""
    batcher = SearchSettings.of({**SETTINGS, **settings}).shared()
    episode = batcher.stepper.begin(question)
    for text in turns or scripted_turns(question):
        batcher.stepper.step([episode], [text])
    assert episode.trajectory.done
    return episode.trajectory
