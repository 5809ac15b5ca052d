"""A service that runs at several addresses: which one a request goes to, retries and failover within a deadline."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import httpx

from retrievers.base import IndexMismatchError, QueryError, RetrievalError
from retrievers.service.request import AttemptError, Request
from retrievers.service.wire import INDEX_HEADER

T = TypeVar("T")
WORKERS = 16  # requests at once
COOLDOWN, MAX_COOLDOWN = 5.0, 60.0  # seconds that a replica which failed is avoided for
GRACE = 0.1  # seconds after the deadline in which a request may still say what it saw


@dataclass
class RemoteStats:
    """What a client did since it was made, for logs."""

    requests: int = 0  # sent, the repeated ones too
    retries: int = 0  # sent to a replica that the same request had failed at
    failovers: int = 0  # sent to another replica because one had failed
    failures: int = 0  # given up


class _Replica:
    """One address, avoided for a while after it failed: 5 seconds, twice as long each time, 60 at most."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.avoided_until = 0.0
        self.cooldown = COOLDOWN

    def avoided(self) -> bool:
        return time.monotonic() < self.avoided_until

    def failed(self) -> None:
        if not self.avoided():  # of many requests under way that fail together, the first counts
            self.avoided_until = time.monotonic() + self.cooldown
            self.cooldown = min(2 * self.cooldown, MAX_COOLDOWN)

    def answered(self) -> None:
        self.avoided_until, self.cooldown = 0.0, COOLDOWN


class Replicas:
    """Sends requests to replicas in turn; threads may share one. Arguments are those of `RemoteRetriever`."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        deadline: float,
        attempts: int,
        backoff: float,
        transport: httpx.BaseTransport | None,
    ) -> None:
        self.urls = [_address(url) for url in urls]
        self.stats = RemoteStats()
        self.deadline = deadline
        self.attempts = max(attempts, len(self.urls))
        self.backoff = backoff
        self._replicas = [_Replica(url) for url in self.urls]
        self._index: str | None = None
        self._turn = itertools.count()
        self._jitter = random.Random()  # shifts when requests are sent, never what is found
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="retrieval")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=WORKERS)
        self._client = httpx.Client(transport=transport, limits=limits, trust_env=False)

    def ask(self, requests: Sequence[Request[T]], ends: float) -> list[T | RetrievalError]:
        """The answer to each request, or why there is none by `ends` (of `time.monotonic()`).

        Raises `RefusedError` and `IndexMismatchError`.
        """
        # In threads of our own, since httpx's time-outs are for single reads and writes: the deadline is for it all.
        futures = [self._pool.submit(self._try_in_turn, request, ends) for request in requests]
        wait(futures, timeout=max(ends - time.monotonic(), 0.0) + GRACE)
        answers: list[T | RetrievalError] = []
        for future in futures:
            try:
                answers.append(future.result(timeout=0))
            except TimeoutError:
                future.cancel()
                text = f"no answer from {', '.join(self.urls)} within the deadline of {self.deadline:g} s"
                answers.append(RetrievalError(f"{text}; raise it, or see whether the service is overloaded"))
            except RetrievalError as error:
                answers.append(error)
        return answers

    def close(self) -> None:
        """End connections and threads."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _try_in_turn(self, request: Request[T], ends: float) -> T:
        """Try replicas until one gives an answer that can be read, until attempts or time are used up."""
        start = time.monotonic()
        turn = next(self._turn) % len(self._replicas)
        order = self._replicas[turn:] + self._replicas[:turn]
        failed: Counter[str] = Counter()
        seen: dict[str, str] = {}
        not_before: dict[str, float] = {}
        for attempt in range(self.attempts):
            replica = min(order, key=lambda r: (failed[r.url], r.avoided()))
            again = failed[replica.url] > 0
            pause = max(not_before.get(replica.url, 0.0) - time.monotonic(), self._pause(failed[replica.url]))
            left = ends - time.monotonic() - pause
            if left <= 0 or (pause > 0 and self._closed.wait(pause)):
                break
            self._count(requests=1, retries=int(again), failovers=int(attempt > 0 and not again))
            try:
                answer = request.send(self._client, replica.url, left / (self.attempts - attempt))
                self._check_index(replica, answer.headers.get(INDEX_HEADER))
                result = request.result(answer)
            except AttemptError as error:
                replica.failed()
                failed[replica.url] += 1
                seen[replica.url] = str(error)
                not_before[replica.url] = time.monotonic() + error.wait
            else:
                replica.answered()
                return result
        self._count(failures=1)
        what = "; ".join(f"{url}{request.path}: {text}" for url, text in seen.items())
        raise RetrievalError(
            f"the search service failed ({failed.total()} attempts, {time.monotonic() - start:.1f} s of a deadline of "
            f"{self.deadline:g} s): {what or 'no time was left to ask'}. See whether it runs "
            f"(GET {order[0].url}/health) and what it logs"
        )

    def _check_index(self, replica: _Replica, index: str | None) -> None:
        """Our servers say what they search: a replica or a restart with another index would mix two experiments."""
        with self._lock:
            self._index = self._index or index
        if index is not None and index != self._index:
            raise IndexMismatchError(
                f"{replica.url} searches another index ({index}) than was searched before ({self._index}): start all "
                "replicas with the same corpus and engine"
            )

    def _pause(self, failures: int) -> float:
        """Seconds to wait before a replica is asked that has failed so often at this request."""
        return self.backoff * 2 ** (failures - 1) * self._jitter.uniform(0.5, 1.5) if failures else 0.0

    def _count(self, requests: int = 0, retries: int = 0, failovers: int = 0, failures: int = 0) -> None:
        with self._lock:
            self.stats.requests += requests
            self.stats.retries += retries
            self.stats.failovers += failovers
            self.stats.failures += failures


def _address(url: str) -> str:
    """An address without /retrieve."""
    address = url.strip().rstrip("/").removesuffix("/retrieve").rstrip("/")
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise QueryError(f"{url!r} is no address ({error}): give http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise QueryError(f"{url!r} is no address of a service: it must be http:// or https:// and a host")
    return address
