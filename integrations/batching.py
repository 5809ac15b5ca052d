"""`StepBatcher`: steps of many concurrent episodes, with one retrieval call and one scoring call for all that wait."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from igsearch_env.episode import Episode
from igsearch_env.stepper import EpisodeStepper


@dataclass(slots=True)
class _Step:
    episode: Episode
    text: str
    done: bool = False
    reward: float = 0.0
    error: Exception | None = None


class StepBatcher:
    """Makes a stepper safe to share between threads (`step`) and between the tasks of event loops (`astep`).

    Calls of the stepper are made one at a time. Steps that arrive in the meantime wait and are run together in the next
    call. Rewards do not depend on what is run together (see `SearchSettings.open`).
    """

    def __init__(self, stepper: EpisodeStepper) -> None:
        self.stepper = stepper
        self._running = threading.Lock()
        self._changing = threading.Lock()
        self._waiting: list[_Step] = []
        self._tasks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()

    def step(self, episode: Episode, text: str) -> float:
        """Advance a running episode by one action; returns the reward of the action.

        Raises what the stepper raises, in every episode of the call that failed.
        """
        step = self._add(episode, text)
        self._run(step)
        return _reward(step)

    async def astep(self, episode: Episode, text: str) -> float:
        """As `step`, for a coroutine: the event loop is not blocked."""
        loop = asyncio.get_running_loop()
        step = self._add(episode, text)
        while not step.done:
            task = self._tasks.get(loop)
            if task is None or task.done():
                task = self._tasks[loop] = loop.create_task(asyncio.to_thread(self._run, step))
            await asyncio.shield(task)  # others wait for it as well
        return _reward(step)

    def _add(self, episode: Episode, text: str) -> _Step:
        step = _Step(episode, text)
        with self._changing:
            self._waiting.append(step)
        return step

    def _run(self, wanted: _Step) -> None:
        """Wait for the call that runs, then run all steps that wait, unless that call included `wanted`."""
        with self._running:
            if wanted.done:
                return
            with self._changing:
                steps, self._waiting = self._waiting, []
            try:
                rewards = self.stepper.step([step.episode for step in steps], [step.text for step in steps])
                for step, reward in zip(steps, rewards, strict=True):
                    step.reward = reward
            except Exception as error:
                for step in steps:
                    step.error = error
            finally:
                for step in steps:
                    step.done = True


def _reward(step: _Step) -> float:
    if step.error is not None:
        raise step.error
    return step.reward
