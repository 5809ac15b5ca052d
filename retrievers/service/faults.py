"""Fault injection for testing a setup: a retriever and an HTTP transport that fail at a given rate.

    retriever = FaultyRetriever(retriever, rate=0.1, seed=0)                       faults of an engine
    retriever = RemoteRetriever(url, transport=FaultyTransport(rate=0.1, seed=0))  faults of a network or service

Whether a query or a request fails depends on the seed, its content and its number of earlier occurrences, not on the
timing of threads. `injected` counts the faults.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from retrievers.base import Passage, QueryError, RetrievalError, Retriever, WrappingRetriever
from retrievers.service.deadline import make_transport

RETRIEVER_FAULTS = ("latency", "error", "outage", "timeout", "empty")
KEPT = 16  # unused connections that stay open
TRANSPORT_FAULTS = (
    *("latency", "connect", "timeout", "half_closed"),
    *("status_429", "status_500", "status_503", "html", "truncated", "wrong_count"),
)


class _Schedule:
    """Selects the fault of a text at its n-th occurrence."""

    def __init__(self, rate: float, seed: int, kinds: Sequence[str], known: Sequence[str]) -> None:
        unknown = [kind for kind in kinds if kind not in known]
        if unknown or not kinds or not 0.0 <= rate <= 1.0:
            raise QueryError(f"rate={rate}, kinds={list(kinds)}: rate must be from 0 to 1, kinds some of {list(known)}")
        self.rate = rate
        self.seed = seed
        self.kinds = list(kinds)
        self.injected: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._occurrences: Counter[str] = Counter()

    def next(self, text: str) -> str | None:
        """The fault of this occurrence; None for none."""
        with self._lock:
            occurrence = self._occurrences[text]
            self._occurrences[text] += 1
        content = f"{self.seed} {occurrence} {text}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if int.from_bytes(digest[:8]) >= self.rate * 2**64:
            return None
        fault = self.kinds[int.from_bytes(digest[8:]) % len(self.kinds)]
        with self._lock:
            self.injected[fault] += 1
        return fault


class FaultyRetriever(WrappingRetriever):
    """Forwards searches to another retriever and injects faults into some.

    Args:
        retriever: the retriever that searches.
        rate: fraction of the queries that get a fault, 0 to 1.
        seed: seed of the selection of faults.
        kinds: `latency` (the result is `delay` late), `error` (no result for this query), `outage` (none for its
            whole batch), `timeout` (none for its whole batch, `delay` late), `empty` (no passages).
        delay: in seconds.
    """

    def __init__(
        self,
        retriever: Retriever,
        rate: float,
        seed: int,
        *,
        kinds: Sequence[str] = RETRIEVER_FAULTS,
        delay: float = 0.05,
    ) -> None:
        self.retriever = retriever
        self.delay = delay
        self._schedule = _Schedule(rate, seed, kinds, RETRIEVER_FAULTS)
        self.injected = self._schedule.injected

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        faults = [self._schedule.next(query) for query in queries]
        if "latency" in faults or "timeout" in faults:
            time.sleep(self.delay)
        for kind in ("outage", "timeout"):
            if kind in faults:
                raise RetrievalError(f"injected {kind} at query {queries[faults.index(kind)][:60]!r}")
        results: list[list[Passage] | None] = []
        for passages, fault in zip(self.retriever.search(queries, k), faults, strict=True):
            results.append(None if fault == "error" else [] if fault == "empty" else passages)
        if "error" in faults:
            raise RetrievalError(
                f"injected error at {faults.count('error')} of {len(queries)} queries",
                results if any(passages is not None for passages in results) else None,
            )
        return [passages for passages in results if passages is not None]

    def fingerprint(self) -> dict[str, Any]:
        schedule = self._schedule
        return {
            "engine": "faulty",
            "passages": len(self),
            "rate": schedule.rate,
            "seed": schedule.seed,
            "kinds": schedule.kinds,
            "retriever": self.retriever.fingerprint(),
        }


class FaultyTransport(httpx.BaseTransport):
    """Forwards requests and injects faults into some: `RemoteRetriever(url, transport=FaultyTransport(...))`.

    Args:
        transport: the transport that sends the requests; by default httpx's.
        rate: fraction of the requests that get a fault, 0 to 1.
        seed: seed of the selection of faults.
        kinds: `latency` (the response is `delay` late), `connect` (no connection), `timeout` (after `delay`),
            `half_closed` (a disconnect before the response), `status_429`, `status_500`, `status_503`, `html` (a
            page with status 200), `truncated` (half of the response), `wrong_count` (one list too few or too many).
        delay: in seconds.
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | None = None,
        *,
        rate: float,
        seed: int,
        kinds: Sequence[str] = TRANSPORT_FAULTS,
        delay: float = 0.05,
    ) -> None:
        self.transport = transport or make_transport(KEPT)
        self.delay = delay
        self._schedule = _Schedule(rate, seed, kinds, TRANSPORT_FAULTS)
        self.injected = self._schedule.injected

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Handle one request, with or without a fault."""
        fault = self._schedule.next(f"{request.url.path} {request.read().decode('utf-8', 'replace')}")
        if fault is None:
            return self.transport.handle_request(request)
        if fault in ("latency", "timeout"):
            time.sleep(self.delay)
        if fault == "connect":
            raise httpx.ConnectError("injected: connection refused", request=request)
        if fault == "timeout":
            raise httpx.ReadTimeout("injected: timed out", request=request)
        if fault == "half_closed":
            raise httpx.RemoteProtocolError("injected: server disconnected without sending a response", request=request)
        if fault.startswith("status_"):
            return httpx.Response(int(fault.removeprefix("status_")), text="injected")
        if fault == "html":
            return httpx.Response(200, html="<html><body>injected: please log in</body></html>")
        response = self.transport.handle_request(request)
        if fault == "latency":
            return response
        content = response.read()
        response.close()
        spoilt = content[: len(content) // 2] if fault == "truncated" else _wrong_count(content)
        return httpx.Response(response.status_code, content=spoilt, headers={"content-type": "application/json"})

    def close(self) -> None:
        """Close the wrapped transport."""
        self.transport.close()


def _wrong_count(content: bytes) -> bytes:
    """The response with one list too few, or one too many if it has a single one; others unchanged."""
    try:
        result = json.loads(content)["result"]
    except (ValueError, KeyError, TypeError):
        return content
    return json.dumps({"result": result[:-1] if len(result) > 1 else [*result, *result]}).encode()
