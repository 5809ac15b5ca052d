"""Client of a remote search engine with the interface of Search-R1's retrieval service, such as `retrievers.server`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx
import numpy as np

from retrievers.base import Passage, QueryError, RetrievalError, Retriever
from retrievers.credentials import split
from retrievers.service.replicas import RemoteStats, Replicas
from retrievers.service.request import RefusedError, Request, TooLargeError
from retrievers.service.wire import is_address, read_health, read_result, read_sample, unicode

PATIENCE = 120.0  # seconds for which `RemoteRetriever.open` lets a service be away


class RemoteRetriever(Retriever):
    """Searches through one or more replicas of a service. Thread-safe.

    Transient failures (no connection, timeouts, broken connections, status 429, 500, 502, 503 or 504, malformed
    responses) are retried: at another replica at once, at the same one after `backoff`, doubled each time, or after
    the delay of a Retry-After header. Queries that are too many for one request (status 413) are sent in halves. Any
    other 4xx status raises `QueryError`. If all attempts fail: `RetrievalError`, with the results of the other parts of
    the batch in `results`.

    A document without a score gets score 0.0, one without an id the hash of its contents. GET /health and POST
    /sample, which only our server has, are used if they exist. No request is sent before the first use.

    Args:
        urls: addresses of replicas that serve the same index, with or without `/retrieve`; a string may hold several,
            separated by commas. `http://USER:PASSWORD@HOST` is basic authentication; it appears in no message.
        passages: the corpus, to draw random passages from; required if the service has no /sample.
        deadline: time limit in seconds of a request including retries, and of a call without a further result: a large
            batch may take longer, as long as its requests are answered. An attempt gets the time left divided by the
            attempts left, from resolving the name to the last byte: then its connection is closed and the replica
            counts as failed, even if it is still sending.
        attempts: maximum number of times one request is sent; at least once to each replica.
        backoff: seconds before the first retry at the same replica, with a jitter of 50%.
        patience: seconds for which a request is repeated beyond `attempts`, within the deadline, if the service has
            answered before: a restart of the service then changes no result.
        batch_size: maximum queries per request; the requests of a batch are sent to the replicas in turn, and four at a
            time for each.
        transport: httpx transport, for tests, proxies or certificates. Proxy environment variables are ignored.
        verbatim_titles: keep the quotes around titles (`Passage.from_contents`).
    """

    def __init__(
        self,
        urls: Sequence[str] | str,
        *,
        passages: Sequence[Passage] | None = None,
        deadline: float = 60.0,
        attempts: int = 3,
        backoff: float = 0.1,
        patience: float = 0.0,
        batch_size: int = 64,
        transport: httpx.BaseTransport | None = None,
        verbatim_titles: bool = False,
    ) -> None:
        if not (deadline > 0 and attempts >= 1 and backoff >= 0 and patience >= 0 and batch_size >= 1):
            raise QueryError(
                f"deadline={deadline}, attempts={attempts}, backoff={backoff}, patience={patience}, "
                f"batch_size={batch_size}: deadline must be above 0, attempts and batch_size at least 1, backoff and "
                "patience at least 0"
            )
        if patience and not backoff:
            raise QueryError(f"patience={patience} with backoff=0 sends requests without a pause; raise backoff")
        urls = split(urls, ",") if isinstance(urls, str) else urls
        if not urls:
            raise QueryError("urls is empty: pass at least one address, http://HOST:PORT")
        self.deadline = deadline
        self.batch_size = batch_size
        self.verbatim_titles = verbatim_titles
        self._passages = passages
        self._replicas = Replicas(
            urls, deadline=deadline, attempts=attempts, backoff=backoff, patience=patience, transport=transport
        )
        self._health: dict[str, Any] | None = None  # None: not requested yet

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`: an address, or several separated by commas."""
        return is_address(source)

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> RemoteRetriever:
        """For `open_retriever`: in training and evaluation, a service may be away for `PATIENCE` seconds."""
        return cls(source, passages=passages, deadline=1.5 * PATIENCE, patience=PATIENCE)

    @property
    def concurrency(self) -> int:
        """See `Retriever`: as many calls as requests of one call, 4 for each replica."""
        return self._replicas.concurrency

    @property
    def stats(self) -> RemoteStats:
        """Counters of requests and failures."""
        return self._replicas.stats

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        ends = time.monotonic() + self.deadline
        if self._passages is None:
            self._ask_health(ends)
        self.check(queries, k)
        asked = [i for i, query in enumerate(queries) if query.strip()]
        answers = self._replicas.ask_in_parts(
            [queries[i] for i in asked], self.batch_size, partial(self._request, k=k), ends
        )
        found: list[list[Passage] | None] = [None if query.strip() else [] for query in queries]
        errors: list[RetrievalError] = []
        for i, answer in zip(asked, answers, strict=True):
            if isinstance(answer, RetrievalError):
                errors.append(answer)
            else:
                found[i] = answer
        if errors:
            whole = len(errors) == len(asked)
            message = f"{errors[0]}" if whole else f"{len(errors)} of {len(asked)} queries failed: {errors[0]}"
            raise RetrievalError(message, None if whole else found) from errors[0]
        return [passages for passages in found if passages is not None]

    def _request(self, queries: Sequence[str], k: int) -> Request[Sequence[list[Passage]]]:
        body = {"queries": [unicode(query) for query in queries], "topk": k, "return_scores": True}
        read = partial(read_result, queries=len(queries), k=k, verbatim_titles=self.verbatim_titles)
        return Request("POST", "/retrieve", body, read)

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        """See `Retriever`. Without `passages` the service draws them with a seed from `rng`."""
        ends = time.monotonic() + self.deadline
        if self._passages is None:
            self._ask_health(ends)
        self.check_count(n, "n")
        if self._passages is not None:
            return [self._passages[int(i)] for i in rng.choice(len(self._passages), n, replace=False)]
        read = partial(read_sample, n=n, verbatim_titles=self.verbatim_titles)
        request = Request("POST", "/sample", {"n": n, "seed": int(rng.integers(2**62))}, read)
        try:
            (drawn,) = self._replicas.ask([request], ends)
        except RefusedError as refused:
            if refused.status not in (404, 405):
                raise
            raise QueryError(
                f"sample(n={n}): the service has no random passages ({refused}); pass `passages` to RemoteRetriever: "
                "the corpus that it serves, e.g. load_corpus(FILE)"
            ) from refused
        if isinstance(drawn, (RetrievalError, TooLargeError)):
            raise drawn
        return drawn

    def check_count(self, count: int, name: str) -> None:
        """See `Retriever`. If the service does not report its number of passages, only 1 <= count is checked."""
        if self._size() is not None:
            super().check_count(count, name)
        elif count < 1:
            raise QueryError(f"{name}={count}: {name} must be at least 1; raise {name}")

    def __len__(self) -> int:
        size = self._size()
        if size is None:
            raise QueryError(
                f"{', '.join(self._replicas.urls)}: the service does not report its number of passages (GET /health); "
                "pass `passages` to RemoteRetriever: the corpus that it serves"
            )
        return size

    def fingerprint(self) -> dict[str, Any]:
        fingerprint = self._ask_health(time.monotonic() + self.deadline).get("fingerprint")
        if isinstance(fingerprint, dict):
            return fingerprint
        return {"engine": "remote", "urls": self._replicas.urls, "passages": self._size()}

    def close(self) -> None:
        self._replicas.close()

    def _size(self) -> int | None:
        """Number of passages; None if the service does not report it."""
        if self._passages is not None:
            return len(self._passages)
        return self._ask_health(time.monotonic() + self.deadline).get("passages")

    def _ask_health(self, ends: float) -> dict[str, Any]:
        """The response of GET /health, requested once; empty if the service has none like ours."""
        if self._health is None:
            try:
                (health,) = self._replicas.ask([Request("GET", "/health", None, read_health)], ends)
            except RefusedError as refused:
                if refused.status in (401, 403):  # it would refuse searches as well
                    raise
                health = {}
            if isinstance(health, (RetrievalError, TooLargeError)):
                raise health
            self._health = health
        return self._health
