"""Asynchronous rollouts: each episode generates, searches and continues on its own.

A finished turn is acted on at once. If it searches, its query goes to a thread; what the thread has found is read in
the main thread, where all text is parsed and encoded, and the next turn is queued. Meanwhile the decoder writes the
other turns, and episodes that were waiting have taken the slots of those that ended.

Each episode makes its own draws, so what it writes does not depend on the clock; only the rounding of log-probs does,
with the other rows of a pass.

When to wait. Let a pass of the model take c, however few rows it has, a turn L passes and a search T. A slot that never
waits for another one begins a turn every L c + T, and no schedule makes that shorter. A pass that waited for searches
would delay the slots that write, to save those that search at most one pass a turn, since what a search has found is
read between two passes. So decoding never waits for a search, however few slots write. Prefills do wait: each is a pass
of its own in the built-in decoder, which gathers them (`TurnDecoder.prefill_share`).

With one search at a time and T above L c, the slots would split into two groups that search in turn, up to twice as
long as together. Turns of language models take longer than a search, and a service takes several searches at a time
(`Retriever.concurrency`), so nothing is done about that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue

from algorithms.common.rollout.turn_decoder import Completion, TurnDecoder
from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError
from igsearch_env.step_queue import APART_SECONDS, apart
from igsearch_env.stepper import EpisodeStepper
from retrievers.base import Passage, RetrievalError

GATHER_SECONDS = 0.003  # for which a query waits for others, and a finished search for the main thread
MAX_BATCH = 256  # queries of one search
WAIT_SECONDS = 1.0  # for which an episode waits for a search before the rollout looks whether it is to end
CLOSE_SECONDS = 10.0  # for which the end of a rollout waits for searches in flight

Found = list[Passage] | Exception


class AsynchronousSteps:
    """Advances episodes as soon as their turns are written and their searches return.

    Args:
        decoder: writes the turns.
        stepper: of the environment, without a scorer: information gain is measured after a rollout.
    """

    def __init__(self, decoder: TurnDecoder, stepper: EpisodeStepper) -> None:
        if stepper.information_gain is not None:
            raise ConfigurationError(
                "an asynchronous rollout with a scorer in its environment: random evidence is drawn from the searches "
                "of a step, and there are none that all episodes share; leave the scorer out and measure the buffer "
                "(measure_information_gain)"
            )
        self.decoder = decoder
        self.searches = SearchThreads(stepper.search, stepper.retriever.concurrency)
        self._searching: dict[int, Completion] = {}  # turns whose search has not returned, by slot

    def advance(self, live: Mapping[int, Episode]) -> list[tuple[int, Completion]]:
        """The slots of episodes whose step is complete since the last call, and what they wrote; at times none."""
        decoder = self.decoder
        queued = len(live) - len(self._searching) - decoder.writing
        if queued and (not decoder.writing or queued >= int(decoder.prefill_share * (queued + decoder.writing))):
            decoder.prefill()
        idle = not decoder.writing  # all episodes are searching
        complete: list[tuple[int, Completion]] = []
        if not idle:
            asked: list[tuple[int, str]] = []
            for slot, completion in decoder.decode_step(GATHER_SECONDS if self._searching else None):
                query = live[slot].act(decoder.policy.tokenizer.decode(completion.ids))
                if query is None:
                    complete.append((slot, completion))
                else:
                    self._searching[slot] = completion
                    asked.append((slot, query))
            self.searches.submit(asked)
        for slot, found in self.searches.finished(wait=idle):
            if isinstance(found, Exception):
                live[slot].fail()
            else:
                live[slot].observe(found)
            complete.append((slot, self._searching.pop(slot)))
        return complete

    def close(self) -> None:
        """End the threads; a search in flight is waited for, but not for longer than `CLOSE_SECONDS`."""
        self.searches.close()


class SearchThreads:
    """Searches in threads: the queries that wait at the same time are one call.

    A query waits for others for `GATHER_SECONDS`, and while all threads are searching.

    Args:
        search: the passages of each query, in one call.
        threads: maximum number of calls at a time.
    """

    def __init__(self, search: Callable[[Sequence[str]], Sequence[list[Passage]]], threads: int) -> None:
        self._search = search
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, int, str]] = deque()  # time of arrival, slot, query
        self._closed = False
        self._found: SimpleQueue[list[tuple[int, Found]] | BaseException] = SimpleQueue()
        # Daemons: a service that does not answer must not hold up the end of the process.
        self._threads = [
            threading.Thread(target=self._work, name="rollout-search", daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, queries: Sequence[tuple[int, str]]) -> None:
        """Begin to search for the queries of some slots."""
        if queries:
            now = time.monotonic()
            with self._changed:
                self._waiting.extend((now, slot, query) for slot, query in queries)
                self._changed.notify_all()

    def finished(self, wait: bool) -> list[tuple[int, Found]]:
        """What has been found since the last call, by slot: the passages, or the `RetrievalError` of this query alone.

        `wait`: for the first one, but not for longer than `WAIT_SECONDS`. Any other error of a search is raised.
        """
        results: list[tuple[int, Found]] = []
        while True:
            try:
                found = self._found.get(block=wait and not results, timeout=WAIT_SECONDS)
            except Empty:
                return results
            if isinstance(found, BaseException):
                raise found
            results += found

    def close(self) -> None:
        """Drop the queries that wait, and end the threads."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        ends = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                until = time.monotonic() + APART_SECONDS
                found = apart(self._search, [query for _, query in batch], until, RetrievalError)
                self._found.put([(slot, result) for (slot, _), result in zip(batch, found, strict=True)])
            except BaseException as error:  # also sys.exit() of a library: the main thread raises it
                self._found.put(error)

    def _next_batch(self) -> list[tuple[int, str]]:
        """The slots and queries of the next call; none once `close` was called."""
        with self._changed:
            while not self._closed:
                left: float | None = None
                if self._waiting:
                    left = self._waiting[0][0] + GATHER_SECONDS - time.monotonic()
                    if left <= 0 or len(self._waiting) >= MAX_BATCH:
                        size = min(len(self._waiting), MAX_BATCH)
                        return [self._waiting.popleft()[1:] for _ in range(size)]
                self._changed.wait(left)
        return []
