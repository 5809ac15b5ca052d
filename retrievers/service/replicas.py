"""Replicas of a service at several addresses: load balancing, retries and failover within a deadline."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx

from retrievers.base import IndexMismatchError, QueryError, RetrievalError
from retrievers.service.address import split_address
from retrievers.service.deadline import make_client
from retrievers.service.request import AttemptError, Request, TooLargeError
from retrievers.service.wire import INDEX_HEADER

T = TypeVar("T")
Item = TypeVar("Item")
WORKERS = 16  # concurrent requests
PER_REPLICA = 4  # of one call: more would only wait at the service, and use up their time there
COOLDOWN, MAX_COOLDOWN = 5.0, 60.0  # seconds for which a failed replica is avoided
LONGEST_PAUSE = 5.0  # seconds between two attempts at the same replica
GRACE = 0.1  # seconds after the deadline in which a request may still report its error


@dataclass
class RemoteStats:
    """Counters of a client since its creation, for logs."""

    requests: int = 0  # sent, including retries
    retries: int = 0  # sent to a replica at which the same request had failed
    failovers: int = 0  # sent to another replica because one had failed
    failures: int = 0  # failed after all attempts


class _Replica:
    """One address, avoided for a while after a failure: 5 seconds, doubled each time, at most 60."""

    def __init__(self, url: str) -> None:
        self.url, self.auth = _address(url)
        self.avoided_until = 0.0
        self.cooldown = COOLDOWN

    def avoided(self) -> bool:
        return time.monotonic() < self.avoided_until

    def failed(self) -> None:
        if not self.avoided():  # of concurrent requests that fail together, only the first counts
            self.avoided_until = time.monotonic() + self.cooldown
            self.cooldown = min(2 * self.cooldown, MAX_COOLDOWN)

    def answered(self) -> None:
        self.avoided_until, self.cooldown = 0.0, COOLDOWN


class _Call(Generic[T]):
    """Requests that are sent together: those that wait, the answers by number, and when the call fails."""

    def __init__(self, requests: Sequence[Request[T]], ends: float) -> None:
        self.waiting = deque(enumerate(requests))
        self.answers: dict[int, T | RetrievalError | TooLargeError] = {}
        self.ends = ends


class Replicas:
    """Sends requests to replicas in turn. Thread-safe.

    Args:
        service, health: what answers, for messages, and the path by which a person can check that it does.
        others: as in `RemoteRetriever`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        deadline: float,
        attempts: int,
        backoff: float,
        patience: float,
        transport: httpx.BaseTransport | None,
        service: str = "search service",
        health: str = "/health",
    ) -> None:
        self.service = service
        self.health = health
        self._replicas = [_Replica(url) for url in urls]
        self.urls = [replica.url for replica in self._replicas]
        self.stats = RemoteStats()
        self.deadline = deadline
        self.attempts = max(attempts, len(self.urls))
        self.backoff = backoff
        self.patience = patience
        self._has_answered = False
        self._waiting = False  # whether a notice about an outage has been printed
        self._index: str | None = None
        self._turn = itertools.count()
        self._jitter = random.Random()  # affects only the timing of requests, never the results
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="retrieval")
        self._client = make_client(WORKERS, transport)

    @property
    def concurrency(self) -> int:
        """How many requests at a time do not only wait at the service."""
        return min(PER_REPLICA * len(self._replicas), WORKERS)

    def ask(self, requests: Sequence[Request[T]], ends: float) -> list[T | RetrievalError | TooLargeError]:
        """The result of each request, or the error if there is none by `ends` (of `time.monotonic()`).

        Each result moves `ends` to `deadline` seconds after it: many requests may take longer than one, as long as
        they are answered. Raises `RefusedError`, but for `TooLargeError`, and `IndexMismatchError`.
        """
        call = _Call(requests, ends)
        lanes = min(len(requests), self.concurrency)
        running = [self._pool.submit(self._work, call) for _ in range(lanes)]
        while (left := call.ends + GRACE - time.monotonic()) > 0:
            done, unfinished = wait(running, timeout=left, return_when=FIRST_EXCEPTION)
            if not unfinished or any(future.exception() for future in done):
                break
        call.waiting.clear()
        for future in running:
            if not future.cancel() and future.done():
                future.result()
        text = f"no response from {', '.join(self.urls)} within the deadline of {self.deadline:g} s"
        late = RetrievalError(f"{text}; raise it, or check whether the service is overloaded")
        return [call.answers.get(number, late) for number in range(len(requests))]

    def ask_in_parts(
        self, items: Sequence[Item], size: int, request: Callable[[Sequence[Item]], Request[Sequence[T]]], ends: float
    ) -> list[T | RetrievalError]:
        """The result of each item; `request` makes one of up to `size` items, whose response has a result for each.

        What the service refuses as too large is sent in halves. Raises as `ask`; `TooLargeError` for a single item.
        """
        found: dict[int, T | RetrievalError] = {}
        parts = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]
        while parts:
            answers = self.ask([request([items[i] for i in part]) for part in parts], ends)
            halves: list[range] = []
            for part, answer in zip(parts, answers, strict=True):
                if isinstance(answer, RetrievalError):
                    found |= dict.fromkeys(part, answer)
                elif not isinstance(answer, TooLargeError):
                    found |= zip(part, answer, strict=True)
                elif len(part) == 1:
                    raise answer
                else:
                    halves += [part[: len(part) // 2], part[len(part) // 2 :]]
            parts, ends = halves, time.monotonic() + self.deadline
        return [found[i] for i in range(len(items))]

    def _work(self, call: _Call[T]) -> None:
        """Send requests of a call until none is waiting."""
        while True:
            try:
                number, request = call.waiting.popleft()
            except IndexError:
                return
            try:
                call.answers[number] = self._try_in_turn(request, call.ends)
            except (RetrievalError, TooLargeError) as error:
                call.answers[number] = error
            else:
                call.ends = max(call.ends, time.monotonic() + self.deadline)

    def close(self) -> None:
        """Close connections and threads."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _try_in_turn(self, request: Request[T], ends: float) -> T:
        """Try replicas until one returns a valid response, or until attempts or time are used up."""
        start = time.monotonic()
        turn = next(self._turn) % len(self._replicas)
        order = self._replicas[turn:] + self._replicas[:turn]
        failed: Counter[str] = Counter()
        seen: dict[str, str] = {}
        not_before: dict[str, float] = {}
        for attempt in itertools.count():
            if attempt >= self.attempts and not self._waits(start, ends, seen):
                break
            replica = min(order, key=lambda r: (failed[r.url], r.avoided()))
            again = failed[replica.url] > 0
            pause = max(not_before.get(replica.url, 0.0) - time.monotonic(), self._pause(failed[replica.url]))
            left = ends - time.monotonic() - pause
            if left <= 0 or (pause > 0 and self._closed.wait(pause)):
                break
            self._count(requests=1, retries=int(again), failovers=int(attempt > 0 and not again))
            try:
                share = left / max(self.attempts - attempt, 1)
                answer = request.send(self._client, replica.url, share, replica.auth)
                self._check_index(replica, answer.headers.get(INDEX_HEADER))
                result = request.result(answer)
            except AttemptError as error:
                replica.failed()
                failed[replica.url] += 1
                seen[replica.url] = str(error)
                not_before[replica.url] = time.monotonic() + error.wait
            else:
                replica.answered()
                self._has_answered, self._waiting = True, False
                return result
        self._count(failures=1)
        what = "; ".join(f"{url}{request.path}: {text}" for url, text in seen.items())
        raise RetrievalError(
            f"the {self.service} failed ({failed.total()} attempts, {time.monotonic() - start:.1f} s of a deadline of "
            f"{self.deadline:g} s): {what or 'no time was left for a request'}. Check that it runs "
            f"(GET {order[0].url}{self.health}) and read its log"
        )

    def _waits(self, start: float, ends: float, seen: Mapping[str, str]) -> bool:
        """Whether to try again after all attempts: for `patience` seconds, a service that has answered before."""
        now = time.monotonic()
        if not self._has_answered or now - start >= self.patience or now >= ends:
            return False
        with self._lock:
            first, self._waiting = not self._waiting, True
        if first:
            url, text = next(iter(seen.items()))
            left = min(self.patience - (now - start), ends - now)
            print(f"the {self.service} {url} does not answer ({text}): trying for {left:.0f} s more", file=sys.stderr)
        return True

    def _check_index(self, replica: _Replica, index: str | None) -> None:
        """Our servers report their index: a replica or a restart with another index would mix two experiments."""
        with self._lock:
            self._index = self._index or index
        if index is not None and index != self._index:
            raise IndexMismatchError(
                f"{replica.url} searches another index ({index}) than earlier requests ({self._index}): start all "
                "replicas with the same corpus and engine"
            )

    def _pause(self, failures: int) -> float:
        """Seconds to wait before a request is sent again to a replica at which it failed `failures` times."""
        if not failures:
            return 0.0
        return min(self.backoff * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE) * self._jitter.uniform(0.5, 1.5)

    def _count(self, requests: int = 0, retries: int = 0, failovers: int = 0, failures: int = 0) -> None:
        with self._lock:
            self.stats.requests += requests
            self.stats.retries += retries
            self.stats.failovers += failovers
            self.stats.failures += failures


def _address(url: str) -> tuple[str, httpx.Auth | None]:
    """The address without /retrieve and credentials, and these."""
    try:
        return split_address(url.strip().rstrip("/").removesuffix("/retrieve").rstrip("/"))
    except ValueError as error:
        raise QueryError(str(error)) from error
