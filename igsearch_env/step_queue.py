"""`StepQueue`: steps of concurrent episodes wait here, and are finished together by a thread.

While one batch of steps is retrieved and scored, the next ones gather; whatever waits then (at most `max_batch` steps)
is the next batch. So a batch is as large as the search engine is slow, and no step waits for an episode that is not
ready.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from igsearch_env.episode import Episode
from igsearch_env.stepper import EpisodeStepper
from retrievers.base import RetrievalError

APART_SECONDS = 10.0  # for which calls are repeated with parts of their batch, to find what failed

T = TypeVar("T")
R = TypeVar("R")
Waiting = tuple[Episode, str | None, "asyncio.Future[None]"]


class StepQueue:
    """Finishes steps that `Episode.act` began: `stepper` is called by one thread, for one batch at a time."""

    def __init__(self, stepper: EpisodeStepper, max_batch: int) -> None:
        self.stepper, self.max_batch = stepper, max_batch
        self._waiting: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None  # only while steps wait, so that nothing is left behind
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="igsearch")

    async def finish(self, episode: Episode, query: str | None) -> None:
        """Retrieve the passages of `query` and the gains that are complete. Raises what went wrong for this episode."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((episode, query, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        await future

    async def close(self, last: Callable[[], None]) -> None:
        """Wait for the steps that wait, then call `last` in the thread and end it."""
        if self._worker is not None:
            await asyncio.wait([self._worker])
        await asyncio.get_running_loop().run_in_executor(self._thread, last)
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        batch: list[Waiting] = []
        try:
            while self._waiting:
                await asyncio.sleep(0)  # coroutines that are ready add their steps first
                batch = []
                while self._waiting and len(batch) < self.max_batch:
                    step = self._waiting.popleft()
                    if not step[2].done():  # its coroutine was not cancelled
                        batch.append(step)
                if not batch:
                    continue
                steps = [(episode, query) for episode, query, _ in batch]
                errors: Sequence[Exception | None]
                try:
                    errors = await asyncio.get_running_loop().run_in_executor(self._thread, finish, self.stepper, steps)
                except Exception as failure:  # a retriever or a scorer returned another number of results
                    errors = [failure] * len(batch)
                for (_, _, future), error in zip(batch, errors, strict=True):
                    if not future.done():
                        future.set_result(None) if error is None else future.set_exception(error)
        finally:
            self._worker = None
            for _, _, future in (*batch, *self._waiting):  # not done only if this task was cancelled, or failed
                future.cancel()
            self._waiting.clear()


def finish(stepper: EpisodeStepper, steps: Sequence[tuple[Episode, str | None]]) -> list[Exception | None]:
    """`EpisodeStepper.finish` for episodes that know nothing of each other; returns the error of each one, or None.

    Random evidence is drawn from the corpus alone, as a single environment does: what the other episodes of a batch
    found depends on the clock.
    """
    errors: dict[int, Exception] = {}  # by id of the episode
    searching = [(episode, query) for episode, query in steps if query is not None]
    found = apart(stepper.search, [query for _, query in searching])
    for (episode, _), passages in zip(searching, found, strict=True):
        if isinstance(passages, RetrievalError):
            episode.fail()
        elif isinstance(passages, Exception):
            errors[id(episode)] = passages
        else:
            episode.observe(passages)
    measured = stepper.measurable([episode for episode, _ in steps if id(episode) not in errors])
    if gain := stepper.information_gain:
        gains = apart(lambda some: gain.measure([step for _, step in some], ()), measured)
        for (episode, step), value in zip(measured, gains, strict=True):
            if isinstance(value, RetrievalError):  # no random passages for the baseline
                if not episode.trajectory.done:
                    episode.fail()
            elif isinstance(value, Exception):
                errors[id(episode)] = value
            else:
                stepper.pay(episode, step, value)
    return [errors.get(id(episode)) for episode, _ in steps]


def apart(
    call: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T], until: float | None = None
) -> list[R | Exception]:
    """The results of one call for all items; if it fails, of calls for ever smaller parts of them.

    So an error is the result of the items that cause it alone. Parts are asked for `APART_SECONDS` (`until` then):
    where a failed call takes long, the service is down, and the error is the result of all items of the call.
    """
    if not items:
        return []
    try:
        return list(call(items))
    except Exception as error:
        if isinstance(error, RetrievalError) and error.results is not None:
            return [error if result is None else cast(R, result) for result in error.results]
        until = time.monotonic() + APART_SECONDS if until is None else until
        if len(items) == 1 or time.monotonic() > until:
            return [error] * len(items)
    half = len(items) // 2
    return [*apart(call, items[:half], until), *apart(call, items[half:], until)]
