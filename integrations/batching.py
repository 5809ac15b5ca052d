"""`StepBatcher`: steps of many concurrent episodes, with one retrieval call and one scoring call for all that wait."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from igsearch_env.episode import AgentAction, Episode
from igsearch_env.step_queue import finish
from igsearch_env.stepper import EpisodeStepper


@dataclass(slots=True)
class _Step:
    episode: Episode
    query: str | None
    done: bool = False
    error: Exception | None = None


class StepBatcher:
    """Makes a stepper safe to share between threads (`step`) and between the tasks of event loops (`astep`).

    Calls of the stepper are made one at a time. Steps that arrive in the meantime wait and are run together in the next
    call. Neither rewards nor errors depend on what is run together (`igsearch_env.step_queue.finish`).
    `igsearch_env.AsyncIGSearch` does this for the coroutines of one event loop.
    """

    def __init__(self, stepper: EpisodeStepper) -> None:
        self.stepper = stepper
        self._running = threading.Lock()
        self._changing = threading.Lock()
        self._waiting: list[_Step] = []
        self._tasks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()

    def step(self, episode: Episode, action: AgentAction) -> float:
        """Advance a running episode by one action; returns the reward of the action.

        Raises what went wrong for this episode.
        """
        step = self._add(episode, action)
        self._run(step)
        return _reward(step)

    async def astep(self, episode: Episode, action: AgentAction) -> float:
        """As `step`, for a coroutine: the event loop is not blocked."""
        loop = asyncio.get_running_loop()
        step = self._add(episode, action)
        while not step.done:
            task = self._tasks.get(loop)
            if task is None or task.done():
                task = self._tasks[loop] = loop.create_task(asyncio.to_thread(self._run, step))
            await asyncio.shield(task)  # others wait for it as well
        return _reward(step)

    def _add(self, episode: Episode, action: AgentAction) -> _Step:
        step = _Step(episode, episode.act(action))
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
                errors = finish(self.stepper, [(step.episode, step.query) for step in steps])
                for step, error in zip(steps, errors, strict=True):
                    step.error = error
            except Exception as error:  # a search engine or a scorer returned another number of results
                for step in steps:
                    step.error = error
            finally:
                for step in steps:
                    step.done = True


def _reward(step: _Step) -> float:
    if step.error is not None:
        raise step.error
    return step.episode.trajectory.turns[-1].reward
