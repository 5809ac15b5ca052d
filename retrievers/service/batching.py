"""Batches the searches of many clients: queries that arrive during a search are searched together next.

A call with more queries than one search takes has one part in the queue at a time. So two large calls take turns, and
a small call waits for one part of a large one, not for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from retrievers.base import Passage, QueryError, RetrievalError, Retriever

logger = logging.getLogger(__name__)
PATIENCE, MAX_WAIT = 1.0, 0.05  # fraction of the last search's time; seconds


class BusyError(Exception):
    """Too many queries are waiting."""


class BrokenError(Exception):
    """The retriever raised an unexpected exception."""


@dataclass(eq=False)
class _Job:
    queries: Sequence[str]
    k: int
    found: asyncio.Future[list[list[Passage]]]


class Batcher:
    """Runs one search at a time, in a thread; queries that arrive meanwhile are searched together next.

    Clients that wait for a response before their next request would split into two alternating batches. So the next
    search waits for as many requests as the last one had, but at most `PATIENCE` of the time that the last one took:
    a single client never waits. A batch is searched with its largest k, each distinct query once. Use it from one
    event loop.

    Args:
        retriever: the search engine.
        max_batch: maximum queries per search.
        max_waiting: maximum queries in the queue and in search; a call beyond it raises `BusyError`, unless none waits.
            Of a call with several parts, one counts.
        observe: called with the size of each batch.
    """

    def __init__(
        self, retriever: Retriever, *, max_batch: int, max_waiting: int, observe: Callable[[int], None]
    ) -> None:
        self.waiting = 0
        self._retriever = retriever
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._observe = observe
        self._queue: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")

    async def search(self, queries: Sequence[str], k: int) -> AsyncGenerator[list[list[Passage]], None]:
        """As `Retriever.search`, in parts of at most `max_batch` queries, in order; close it to stop."""
        first = min(len(queries), self._max_batch)
        if self.waiting and self.waiting + first > self._max_waiting:
            raise BusyError(
                f"{self.waiting} queries are waiting, at most {self._max_waiting} may with yours: retry in a second"
            )
        for start in range(0, len(queries), self._max_batch):
            yield await self._search_part(queries[start : start + self._max_batch], k)

    async def _search_part(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Cancelling it removes its queries from the queue."""
        loop = asyncio.get_running_loop()
        job = _Job(queries, k, loop.create_future())
        self._queue.append(job)
        self._arrived.set()
        self.waiting += len(queries)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return await job.found
        finally:
            self.waiting -= len(queries)
            job.found.cancel()  # no effect if it is done
            if job in self._queue:
                self._queue.remove(job)

    async def sample(self, n: int, seed: int) -> list[Passage]:
        """As `Retriever.sample`, between two searches."""
        rng = np.random.default_rng(seed)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._retriever.sample, n, rng)

    async def _work(self) -> None:
        try:
            while self._queue:
                start, batch = time.perf_counter(), self._next_batch()
                await self._answer(batch)
                taken = time.perf_counter() - start
                await self._wait_for(len(batch) + len(self._queue), min(PATIENCE * taken, MAX_WAIT))
        finally:
            self._worker = None

    async def _wait_for(self, jobs: int, seconds: float) -> None:
        """Return when `jobs` jobs are in the queue, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self._queue) < jobs:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0].queries) <= self._max_batch):
            batch.append(self._queue.popleft())
            size += len(batch[-1].queries)
        return batch

    async def _answer(self, batch: list[_Job]) -> None:
        queries = list(dict.fromkeys(query for job in batch for query in job.queries))
        k = max(job.k for job in batch)
        self._observe(sum(len(job.queries) for job in batch))
        found, error = await asyncio.get_running_loop().run_in_executor(self._thread, self._found, queries, k)
        if error is not None and len(batch) > 1 and not isinstance(error, RetrievalError):
            for job in batch:  # one of them may have caused it; the others must not fail with it
                await self._answer([job])
            return
        for job in batch:
            if job.found.done():
                continue
            if all(query in found for query in job.queries):
                job.found.set_result([found[query][: job.k] for query in job.queries])
            else:
                job.found.set_exception(error or BrokenError("the retriever returned nothing"))

    def _found(self, queries: list[str], k: int) -> tuple[dict[str, list[Passage]], Exception | None]:
        """The results by query, and the error if some are missing."""
        try:
            return dict(zip(queries, self._retriever.search(queries, k), strict=True)), None
        except RetrievalError as error:
            return {q: r for q, r in zip(queries, error.results or (), strict=False) if r is not None}, error
        except QueryError as error:
            return {}, error
        except BaseException as error:  # also sys.exit() of a library: waiting clients need a response
            logger.exception("the retriever failed in a search of %d queries", len(queries))
            return {}, BrokenError(f"{type(error).__name__}: {error}")
