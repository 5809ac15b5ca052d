"""Asynchronous episodes: event loops that end, event loops of several threads, and closing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from helpers import QUESTIONS, CountingRetriever, small_retriever

from igsearch_env import AsyncIGSearch, ConfigurationError, Search
from retrievers import Passage


class Gate(CountingRetriever):
    """Each search waits until the gate is open."""

    def __init__(self) -> None:
        super().__init__(small_retriever())
        self.entered, self.gate, self.closed = threading.Event(), threading.Event(), 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.entered.set()
        assert self.gate.wait(30)
        return super().search(queries, k)


class Engine(AsyncIGSearch):
    """Counts how often it was closed."""

    def __init__(self, retriever: Gate, error: Exception | None = None) -> None:
        super().__init__(QUESTIONS, retriever, scorer=None, top_k=2)
        self.gate, self.error, self.count = retriever, error, 0

    def _close(self) -> None:
        self.count += 1
        super()._close()
        if self.error:
            raise self.error


async def one_step(igsearch: AsyncIGSearch) -> str:
    """The observation of a search."""
    env = igsearch.env()
    await env.areset(options={"question": QUESTIONS[0]})
    return (await env.astep(Search("Karith")))[0]


async def until(event: threading.Event) -> None:
    """Wait for a thread without blocking the event loop."""
    while not event.is_set():
        await asyncio.sleep(0.001)


def threads_end(igsearch: AsyncIGSearch) -> bool:
    """Whether the thread of the steps ends."""
    threads = list(igsearch.queue._thread._threads)
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
def test_the_next_event_loop_is_served_after_one_that_was_left(closed: bool) -> None:
    retriever = Gate()
    igsearch = Engine(retriever)
    loop = asyncio.new_event_loop()
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(one_step(igsearch), 0.05))
    if closed:
        loop.close()
    retriever.gate.set()
    assert "Karith" in asyncio.run(asyncio.wait_for(one_step(igsearch), 20))
    asyncio.run(asyncio.wait_for(igsearch.aclose(), 20))
    assert igsearch.count == 1
    assert threads_end(igsearch)
    if not closed:
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
    gc.collect()


def test_closing_after_the_event_loop_was_closed() -> None:
    igsearch = Engine(Gate())
    loop = asyncio.new_event_loop()
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(one_step(igsearch), 0.05))
    loop.close()
    igsearch.gate.gate.set()
    asyncio.run(asyncio.wait_for(igsearch.aclose(), 20))
    assert (igsearch.count, threads_end(igsearch)) == (1, True)


@pytest.mark.parametrize("what", ["step", "reset", "close"])
def test_event_loops_of_several_threads_are_refused(what: str) -> None:
    igsearch = Engine(Gate())
    found: list[Any] = []
    first = threading.Thread(target=lambda: found.append(asyncio.run(one_step(igsearch))))
    first.start()
    assert igsearch.gate.entered.wait(20)

    async def second() -> None:
        if what == "close":
            await igsearch.aclose()
        elif what == "reset":
            await igsearch.env().areset()
        else:
            await one_step(igsearch)

    with pytest.raises(ConfigurationError, match="one event loop at a time; make an AsyncIGSearch for each"):
        asyncio.run(asyncio.wait_for(second(), 20))
    igsearch.gate.gate.set()
    first.join(20)
    assert "Karith" in found[0]
    asyncio.run(igsearch.aclose())
    assert igsearch.count == 1


@pytest.mark.parametrize("same_loop", [True, False])
def test_closing_that_was_cancelled_is_completed(same_loop: bool) -> None:
    igsearch = Engine(Gate())

    async def cancelled() -> None:
        step = asyncio.create_task(one_step(igsearch))
        await until(igsearch.gate.entered)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(igsearch.aclose(), 0.05)
        assert igsearch.count == 0
        igsearch.gate.gate.set()
        if same_loop:
            await asyncio.gather(igsearch.aclose(), igsearch.aclose())
            assert igsearch.count == 1
            assert "Karith" in await step

    asyncio.run(asyncio.wait_for(cancelled(), 20))
    asyncio.run(asyncio.wait_for(igsearch.aclose(), 20))
    assert (igsearch.count, threads_end(igsearch)) == (1, True)


def test_every_call_returns_when_all_is_closed() -> None:
    igsearch = Engine(Gate())

    async def main() -> None:
        step = asyncio.create_task(one_step(igsearch))
        await until(igsearch.gate.entered)
        calls = [asyncio.create_task(igsearch.aclose()) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(call.done() for call in calls)
        igsearch.gate.gate.set()
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert igsearch.count == 1
        await asyncio.gather(step, *calls)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_thread_ends_though_closing_raises() -> None:
    igsearch = Engine(Gate(), OSError("the disk is gone"))
    igsearch.gate.gate.set()
    asyncio.run(one_step(igsearch))
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            asyncio.run(igsearch.aclose())
    assert (igsearch.count, threads_end(igsearch)) == (1, True)


@pytest.mark.parametrize("raised", [StopIteration, asyncio.CancelledError])
def test_errors_that_no_future_can_hold(raised: type[BaseException]) -> None:
    class Odd(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            if "odd" in queries:
                raise raised
            return super().search(queries, k)

    async def main() -> list[Any]:
        async with AsyncIGSearch(QUESTIONS, Odd(small_retriever()), top_k=2) as igsearch:

            async def step(query: str) -> str:
                env = igsearch.env()
                await env.areset(options={"question": QUESTIONS[0]})
                return (await env.astep(Search(query)))[0]

            return await asyncio.gather(*map(step, ("Karith", "odd", "Karith")), return_exceptions=True)

    first, error, last = asyncio.run(asyncio.wait_for(main(), 20))
    assert first == last
    assert "Karith" in first
    assert isinstance(error, RuntimeError)
    assert raised.__name__ in str(error)
