"""`IGSearchTextEnv`: an episode of this project's environment behind SkyRL-gym's `BaseTextEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError
from igsearch_env.trajectory import Trajectory
from integrations.batching import StepBatcher
from integrations.episodes import Messages, metrics, plain_info, prompt_messages, read_prompt, row_question
from integrations.records import dump_episode
from integrations.settings import SearchSettings, question_of

ENV_ID = "igsearch"


class IGSearchTextEnv(BaseTextEnv):  # type: ignore[misc] # untyped base class
    """One question, one episode: `init` returns messages, `step` takes what the model wrote.

    The reward of a step is that of the environment: the stabilised information gain of a search, in nats, or the
    outcome reward of an answer. SkyRL puts it on the last token of the turn.

    Args:
        env_config: fields of `SearchSettings`, as in SkyRL's `environment.skyrl_gym.igsearch`. Questions, search engine
            and scorer are opened once per process and shared by all environments with equal settings.
        extras: the row of the data set, with `extra_info: {question: ...}` (see `integrations.episodes.dataset_row`);
            `reward_spec` is not read.
        batcher: an opened stepper instead of the settings, for example with a scorer of another kind; share one.

    Raises `ConfigurationError` for settings that can't be used, `QuestionError` for a row without a question.
    """

    def __init__(
        self,
        env_config: Mapping[str, Any] | None = None,
        extras: Mapping[str, Any] | None = None,
        *,
        batcher: StepBatcher | None = None,
    ) -> None:
        super().__init__()
        if batcher is None:
            batcher = SearchSettings.of(env_config or {}).shared()
        self.batcher = batcher
        self.rules = batcher.stepper.rules
        self.max_turns = self.rules.max_searches + 1
        self.question = question_of(row_question(extras or {}, "the row"), "the row of the data set")
        self.episode: Episode | None = None

    @property
    def trajectory(self) -> Trajectory:
        """The record of the episode. Raises `ConfigurationError` before `init`."""
        return self._running().trajectory

    def init(self, prompt: Messages) -> tuple[Messages, dict[str, Any]]:
        """Start the episode. An empty prompt is replaced by that of the protocol."""
        self.turns = 0
        self.episode = self.batcher.stepper.begin(self.question)
        read_prompt(self.episode, prompt)
        return list(prompt) or prompt_messages(self.rules.protocol, self.question), plain_info(self.episode)

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """One turn. `metadata` is the environment's `info`; at the end it has the whole episode as `episode`, too."""
        episode = self._running()
        if episode.trajectory.done:
            raise ConfigurationError(f"the episode has ended ({episode.trajectory.stop_reason}): call init() first")
        self.turns += 1
        reward = self.batcher.step(episode, action)
        done = episode.trajectory.done
        observation = episode.trajectory.turns[-1].observation
        metadata = plain_info(episode)
        if done:
            metadata["episode"] = dump_episode(episode.trajectory)
        messages = [] if done else [{"role": "user", "content": observation}]
        return BaseTextEnvStepOutput(observations=messages, reward=reward, done=done, metadata=metadata)

    def get_metrics(self) -> dict[str, float]:
        """Numbers of the episode, which SkyRL averages over a batch."""
        return metrics(self._running())

    def _running(self) -> Episode:
        if self.episode is None:
            raise ConfigurationError("no episode is running: call init() first")
        return self.episode


def register() -> None:
    """Register the environment as `igsearch`; does nothing if it is registered."""
    if ENV_ID not in skyrl_gym.envs.registration.registry:
        skyrl_gym.register(id=ENV_ID, entry_point="integrations.skyrl.env:IGSearchTextEnv")
