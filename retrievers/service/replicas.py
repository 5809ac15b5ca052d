"""Requests to a service that runs at several addresses: time-outs, retries and failover, within a deadline."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from retrievers.base import IndexMismatchError, QueryError, RetrievalError
from retrievers.service.wire import INDEX_HEADER, MALFORMED

T = TypeVar("T")
WORKERS = 16  # requests at once
CONNECT_SECONDS = 5.0  # a machine that is up accepts a connection well within this
COOLDOWN, MAX_COOLDOWN = 5.0, 60.0  # seconds that a replica which failed is avoided for
GRACE = 0.1  # seconds after the deadline in which a request may still say what it saw
MAX_ANSWER_BYTES = 256 * 2**20
TRANSIENT = frozenset({429, 500, 502, 503, 504})  # status codes after which the same request may succeed


@dataclass
class RemoteStats:
    """What a client did since it was made, for logs."""

    requests: int = 0  # sent, the repeated ones too
    retries: int = 0  # sent to a replica that the same request had failed at
    failovers: int = 0  # sent to another replica because one had failed
    failures: int = 0  # given up


class RefusedError(QueryError):
    """A 4xx answer: the same request would be refused again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request(Generic[T]):
    """What to ask, and how to read the body of an answer with status 200 (raises one of `MALFORMED`)."""

    method: str
    path: str
    body: dict[str, Any] | None
    read: Callable[[bytes], T]


class _AttemptError(Exception):
    """What one attempt saw that a further one may not; `wait`: seconds that the server asked to be left alone for."""

    def __init__(self, seen: str, wait: float = 0.0) -> None:
        super().__init__(seen)
        self.wait = wait


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx.Headers
    content: bytes

    def __str__(self) -> str:
        start = self.content[:800].decode("utf-8", "replace")[:200]
        return f"status {self.status}, {self.headers.get('content-type', 'no content type')}, {start!r}"


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
                result = self._attempt(replica, request, left / (self.attempts - attempt))
            except _AttemptError as error:
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

    def _attempt(self, replica: _Replica, request: Request[T], seconds: float) -> T:
        try:
            answer = self._send(replica.url + request.path, request, seconds)
        except httpx.HTTPError as error:
            raise _AttemptError(f"{type(error).__name__}: {error}") from error
        if answer.status in TRANSIENT:
            raise _AttemptError(str(answer), wait=_retry_after(answer.headers))
        if 400 <= answer.status < 500:
            what = f"{replica.url}{request.path} refused the request: {_detail(answer)}"
            raise RefusedError(f"{what}; correct the call or the address", answer.status)
        if answer.status != 200:
            raise _AttemptError(str(answer))
        self._check_index(replica, answer.headers.get(INDEX_HEADER))
        try:
            return request.read(answer.content)
        except MALFORMED as error:
            raise _AttemptError(f"no answer of a retrieval service ({error}): {answer}") from error

    def _send(self, url: str, request: Request[T], seconds: float) -> _Answer:
        ends = time.monotonic() + seconds
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        with self._client.stream(request.method, url, json=request.body, timeout=timeout) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > ends:  # a trickle never times out by itself
                    raise httpx.ReadTimeout(f"the answer was not complete within {seconds:.1f} s")
                if len(content) > MAX_ANSWER_BYTES:
                    raise httpx.DecodingError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            return _Answer(response.status_code, response.headers, bytes(content))

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


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds of a Retry-After header; 0.0 for none, and for a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _detail(answer: _Answer) -> str:
    """What a server gives as the reason of a refusal."""
    try:
        return f"status {answer.status}, {str(json.loads(answer.content)['detail'])[:500]}"
    except (*MALFORMED, KeyError, TypeError):
        return str(answer)
