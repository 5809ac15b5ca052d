"""`IGSearch-v0` for asyncio: concurrent episodes, each at its own pace, whose searches share retrieval calls.

async with AsyncIGSearch() as igsearch:
    env = igsearch.env()
    prompt, info = await env.areset(seed=0)
    observation, reward, terminated, truncated, info = await env.astep(Search("river Ostue"))
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random

from igsearch_env.episode import AgentAction, Episode, check_action
from igsearch_env.errors import ConfigurationError, check_range
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.named_scorers import Scorer
from igsearch_env.opening import Corpus, Opened, Questions
from igsearch_env.protocols import Protocol, as_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.step_queue import StepQueue
from igsearch_env.stepper import EpisodeStepper, step_info
from igsearch_env.trajectory import Trajectory
from retrievers.base import Retriever


class AsyncIGSearch:
    """What concurrent episodes share: questions, search engine, scorer, rules, and the queue of their steps.

    Steps that wait at the same time are retrieved by one call and scored by one call, in a thread, so that the event
    loop never waits. Every episode has the observations, rewards and gains of an `IGSearchEnv` of its own: its random
    evidence is always drawn from the corpus (as with `random_source="corpus"`), whatever else is in the batch.

    A step whose search fails ends its episode (`stop_reason` "retrieval_failed") and no other: where the search engine
    does not say which queries of a call failed, parts of the call are repeated for up to 10 seconds. Other errors of a
    search engine or a scorer are raised by the `astep` that caused them.

    It serves one event loop at a time, and raises `ConfigurationError` if event loops of several threads use it: make
    an `AsyncIGSearch` for each of them. When a loop has ended, another one may use it.

    Args:
        max_batch: steps of one retrieval call, at most.

    The other arguments are those of `IGSearchEnv` and `attempts` of `ReflectionWrapper`.
    """

    def __init__(
        self,
        questions: Questions | None = None,
        retriever: Retriever | None = None,
        scorer: Scorer | None = "unigram",
        *,
        corpus: Corpus | None = None,
        top_k: int = 3,
        max_searches: int = 4,
        attempts: int = 1,
        protocol: str | Protocol = "search_r1",
        information_gain: InformationGainConfig | dict[str, Any] | None = None,
        outcome_reward: str = "em",
        seed: int = 0,
        json_info: bool = False,
        max_batch: int = 256,
    ) -> None:
        check_range("max_batch", max_batch, 1)
        rules = EpisodeRules(top_k, max_searches, attempts, as_protocol(protocol), outcome_reward)
        self._opened = Opened.of(questions, retriever, corpus)
        self.stepper = EpisodeStepper(
            self._opened.questions,
            self._opened.retriever,
            scorer,
            rules,
            information_gain=information_gain,
            seed=seed,
        )
        self.json_info = json_info
        self.queue = StepQueue(self.stepper, max_batch)
        self.closed = False

    def env(self) -> AsyncIGSearchEnv:
        """An environment for one episode at a time. Make one for each of the concurrent episodes; they cost nothing."""
        return AsyncIGSearchEnv(self)

    def check_open(self) -> None:
        """Raise `ClosedEnvironmentError` after `aclose`."""
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("AsyncIGSearch is closed: make another one")

    async def aclose(self) -> None:
        """Wait for the steps in progress, then close the search engine and the scorer that were opened by a name.

        Every call returns when that is done, or raises what it raised. A call that is cancelled does not stop it.
        """
        self.queue.lane()  # refuses the event loop of another thread, before anything is closed
        self.closed = True
        await self.queue.close(self._close)

    def _close(self) -> None:
        try:
            self.stepper.close()
        finally:
            self._opened.close()

    async def __aenter__(self) -> AsyncIGSearch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncIGSearchEnv:
    """`IGSearchEnv` with `areset` and `astep` in place of `reset` and `step`; `AsyncIGSearch.env` makes it."""

    def __init__(self, shared: AsyncIGSearch) -> None:
        self.shared = shared
        self.observation_space, self.action_space = shared.stepper.spaces()
        self.episode: Episode | None = None
        self._rng: np.random.Generator | None = None
        self._unfinished = False

    @property
    def trajectory(self) -> Trajectory:
        """The record of the episode so far."""
        return self._running().trajectory

    def _running(self) -> Episode:
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("no episode is running: await areset() first")
        return self.episode

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode, as `IGSearchEnv.reset` does. A step of the one before that is still running is ignored."""
        self.shared.check_open()
        self.shared.queue.lane()  # raises in the event loop of another thread, before anything changes
        if seed is not None or self._rng is None:
            self._rng, _ = np_random(seed)
        self.episode = self.shared.stepper.begin(self.shared.stepper.choose(options, self._rng))
        self._unfinished = False
        return self.episode.trajectory.prompt, step_info(self.episode, json=self.shared.json_info)

    async def astep(self, action: AgentAction) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn of the agent, as text, `Search` or `Answer`: observation, reward, terminated, truncated, info.

        If the coroutine is cancelled, the episode can't be continued; those of other environments are not affected.
        """
        check_action(action)
        self.shared.check_open()
        self.shared.queue.lane()
        episode = self._running()
        trajectory = episode.trajectory
        if trajectory.done:
            reason = trajectory.stop_reason
            raise gymnasium.error.ResetNeeded(f"the episode has ended ({reason}): await areset() first")
        if self._unfinished:
            raise ConfigurationError(
                "the last step of this episode has not finished, was cancelled or has failed: await it before the next "
                "one, or await areset(); concurrent episodes need an environment each (AsyncIGSearch.env)"
            )
        self._unfinished = True
        query = episode.act(action)
        if query is not None or episode.pending is not None:
            await self.shared.queue.finish(episode, query)
        if self.episode is episode:
            self._unfinished = False
        terminated = trajectory.stop_reason == "answered"
        info = step_info(episode, json=self.shared.json_info)
        turn = trajectory.turns[-1]
        return turn.observation, turn.reward, terminated, trajectory.done and not terminated, info
