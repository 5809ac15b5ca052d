"""`StepQueue`: steps of concurrent episodes wait here, and are finished together by a thread.

While one batch of steps is retrieved and scored, the next ones gather; whatever waits then (at most `max_batch` steps)
is the next batch. So a batch is as large as the search engine is slow, and no step waits for an episode that is not
ready.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError
from igsearch_env.stepper import EpisodeStepper
from retrievers.base import RetrievalError

APART_SECONDS = 10.0  # for which calls are repeated with parts of their batch, to find what failed

T = TypeVar("T")
R = TypeVar("R")
Waiting = tuple[Episode, str | None, "asyncio.Future[None]"]


class Lane:
    """The steps that wait in one event loop, and the task that finishes them: it exists only while steps wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: deque[Waiting] = deque()
        self.worker: asyncio.Task[None] | None = None


class StepQueue:
    """Finishes steps that `Episode.act` began: `stepper` is called by one thread, for one batch at a time.

    It serves one event loop at a time. When that loop has stopped or was closed, the next one that asks is served.
    """

    def __init__(self, stepper: EpisodeStepper, max_batch: int) -> None:
        self.stepper, self.max_batch = stepper, max_batch
        self._lane: Lane | None = None
        self._lock = threading.Lock()  # of the lane and the last call: event loops of several threads may ask
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="igsearch")
        self._closing: asyncio.Task[None] | None = None
        self._last: Future[None] | None = None  # the last call of the thread

    def lane(self) -> Lane:
        """What waits in the running event loop. Raises `ConfigurationError` while another loop is served."""
        loop = asyncio.get_running_loop()
        with self._lock:
            lane = self._lane
            if lane is None or lane.loop is not loop:
                if lane is not None and lane.loop.is_running():
                    raise ConfigurationError(
                        f"an AsyncIGSearch is used by {loop!r} while {lane.loop!r}, which used it before, is running: "
                        "it serves one event loop at a time; make an AsyncIGSearch for each event loop"
                    )
                lane = self._lane = Lane(loop)
            return lane

    async def finish(self, episode: Episode, query: str | None) -> None:
        """Retrieve the passages of `query` and the gains that are complete. Raises what went wrong for this episode."""
        lane = self.lane()
        future = lane.loop.create_future()
        lane.waiting.append((episode, query, future))
        if lane.worker is None:
            lane.worker = lane.loop.create_task(self._work(lane))
        await future

    async def close(self, last: Callable[[], None]) -> None:
        """Wait for the steps that wait, then call `last` once in the thread and end it.

        Whoever waits here is awaiting the same call and gets its error; the call is made also if they are cancelled.
        """
        task = self._closing
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._closing = asyncio.create_task(self._close(self.lane(), last))
        await asyncio.shield(task)

    async def _close(self, lane: Lane, last: Callable[[], None]) -> None:
        if lane.worker is not None:
            await asyncio.wait([lane.worker])
        with self._lock:
            if self._last is None:
                self._last = self._thread.submit(last)
                self._thread.shutdown(wait=False)  # after the last call, whatever becomes of it
        await asyncio.shield(asyncio.wrap_future(self._last))

    async def _work(self, lane: Lane) -> None:
        batch: list[Waiting] = []
        try:
            while lane.waiting:
                await asyncio.sleep(0)  # coroutines that are ready add their steps first
                batch = []
                while lane.waiting and len(batch) < self.max_batch:
                    step = lane.waiting.popleft()
                    if not step[2].done():  # its coroutine was not cancelled
                        batch.append(step)
                if not batch:
                    continue
                steps = [(episode, query) for episode, query, _ in batch]
                errors: Sequence[Exception | None]
                try:
                    errors = await lane.loop.run_in_executor(self._thread, finish, self.stepper, steps)
                except Exception as failure:  # a retriever or a scorer returned another number of results
                    errors = [failure] * len(batch)
                for (_, _, future), error in zip(batch, errors, strict=True):
                    if not future.done():
                        future.set_result(None) if error is None else future.set_exception(error)
        finally:
            lane.worker = None
            if not lane.loop.is_closed():  # else nobody can wait for them
                for _, _, future in (*batch, *lane.waiting):  # not done only if this task was cancelled, or failed
                    future.cancel()
            lane.waiting.clear()


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
    call: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    until: float | None = None,
    only: type[Exception] = Exception,
) -> list[R | Exception]:
    """The results of one call for all items; if it fails, of calls for ever smaller parts of them.

    So an error is the result of the items that cause it alone. Parts are asked for `APART_SECONDS` (`until` then):
    where a failed call takes long, the service is down, and the error is the result of all items of the call. An error
    that is not of type `only` is raised.
    """
    if not items:
        return []
    try:
        return list(call(items))
    except (Exception, asyncio.CancelledError) as raised:
        error = deliverable(raised)
        if not isinstance(error, only):
            raise error from error.__cause__
        if isinstance(error, RetrievalError) and error.results is not None:
            return [error if result is None else cast(R, result) for result in error.results]
        until = time.monotonic() + APART_SECONDS if until is None else until
        if len(items) == 1 or time.monotonic() > until:
            return [error] * len(items)
    half = len(items) // 2
    return [*apart(call, items[:half], until, only), *apart(call, items[half:], until, only)]


def deliverable(error: BaseException) -> Exception:
    """The error as a future can hold it: StopIteration and CancelledError would end the coroutine that waits."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(
        f"a search engine or a scorer raised {error!r}, which no call may raise: correct it, such as a next() "
        "without a default value"
    )
    wrapped.__cause__ = error
    return wrapped
