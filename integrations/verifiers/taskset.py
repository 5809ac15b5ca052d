"""The questions as a taskset of verifiers, with the rewards of an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

import verifiers.v1 as vf
from pydantic import create_model
from pydantic_config import BaseConfig

from integrations.batching import StepBatcher
from integrations.episodes import prompt_messages
from integrations.records import load_episode
from integrations.settings import SearchSettings, question_row
from integrations.verifiers.names import EPISODE, PACKAGE

_HINTS = get_type_hints(SearchSettings)
_FIELDS: dict[str, Any] = {name: (_HINTS[name], value) for name, value in dataclasses.asdict(SearchSettings()).items()}
SearchConfig: Any = create_model("SearchConfig", __base__=BaseConfig, __doc__=SearchSettings.__doc__, **_FIELDS)
"""The fields of `SearchSettings`, as a section of the command line."""


class IGSearchTasksetConfig(vf.TasksetConfig):  # type: ignore[misc] # untyped base class
    """Which questions, search engine and rules, under `--env.taskset.search.*`."""

    id: str = PACKAGE
    search: SearchConfig = SearchConfig()

    def opened(self) -> StepBatcher:
        """The stepper, opened once per process."""
        return SearchSettings.of(self.search.model_dump()).shared()


class QuestionData(vf.TaskData):  # type: ignore[misc] # untyped base class
    """One question; its prompt is that of the protocol."""

    question: dict[str, Any]
    """As `question_row` writes it."""


class QuestionTask(vf.Task[QuestionData, vf.State, vf.TaskConfig]):  # type: ignore[misc] # untyped base class
    """Scores a trace by the episode in `trace.info`, which `IGSearchEnv` puts there."""

    @vf.reward  # type: ignore[untyped-decorator]
    async def outcome(self, trace: vf.Trace) -> float:
        """Outcome reward of the answer, in [0, 1]."""
        return load_episode(trace.info[EPISODE]).outcome

    @vf.reward(weight=0.0)  # type: ignore[untyped-decorator]
    async def search_rewards(self, trace: vf.Trace) -> float:
        """Sum of the rewards of the steps but for the outcome: the stabilised information gains, in nats.

        Its weight is 0, since a sum over the episode says nothing about a single search; `assign_advantages` credits
        each search with its own.
        """
        episode = load_episode(trace.info[EPISODE])
        return sum(turn.reward for turn in episode.turns) - episode.outcome

    @vf.metric  # type: ignore[untyped-decorator]
    async def searches(self, trace: vf.Trace) -> float:
        """Number of searches."""
        return float(load_episode(trace.info[EPISODE]).searches)


class IGSearchTaskset(vf.Taskset[QuestionTask, IGSearchTasksetConfig]):  # type: ignore[misc] # untyped base class
    """A task per question."""

    def load(self) -> Iterator[QuestionTask]:
        """The tasks, in the order of the questions."""
        stepper = self.config.opened().stepper
        for question in stepper.questions:
            data = QuestionData(
                id=question.id,
                name=f"{question.dataset}/{question.id}",
                prompt=prompt_messages(stepper.rules.protocol, question),
                question=question_row(question),
            )
            yield QuestionTask(data, self.config.task)
