"""What the tests of `integrations` share: the same episodes, played by the local environment."""

from __future__ import annotations

from functools import cache
from typing import Any

from models import bundled_policy, turn_end

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.training_rows import TrainingRow, training_rows
from algorithms.comparison.registry import ALGORITHMS
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import bundled_world
from integrations.settings import SearchSettings

SETTINGS: dict[str, Any] = {"questions": "bundled", "max_searches": 3, "seed": 5}


def some_questions() -> list[Question]:
    """Five questions of the bundled world, of one and of two hops."""
    return list(bundled_world().questions["train"][::250])


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


# ---------------------------------------------------------------- rollouts of the bundled policy

ROLLOUT_SETTINGS: dict[str, Any] = {**SETTINGS, "prompt": "bare"}
LOCAL_ALGORITHMS = ("grpo", "ig_grpo", "gigpo", "rloo", "reinforce_plus_plus")


@cache
def local_buffer(group_size: int = 4) -> RolloutBuffer:
    """Rollouts of the bundled policy by this project's own decoder, with the gains that the environment paid."""
    stepper = SearchSettings.of(ROLLOUT_SETTINGS).shared().stepper
    policy = bundled_policy()
    decoder = Decoder(policy, turn_end(policy), slots=8, max_new_tokens=16, temperature=1.0)
    chosen = stepper.questions[::400]
    return collect(decoder, stepper, chosen, group_size=group_size, seed=(1,))


def local_rows(name: str, buffer: RolloutBuffer) -> list[TrainingRow]:
    """Advantages by the algorithm on the local buffer, laid out per token."""
    return training_rows(buffer, ALGORITHMS[name].algorithm.advantages(buffer))
