"""The endpoints of the retrieval service, as an ASGI application; `server.py` lists them and their errors."""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import re
import reprlib
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retrievers.base import MAX_QUERY_CHARS, QueryError, RetrievalError, Retriever
from retrievers.service.admission import Admission
from retrievers.service.batching import Batcher, BrokenError, BusyError
from retrievers.service.limits import Limits
from retrievers.service.wire import INDEX_HEADER, index_mark, write_passages

logger = logging.getLogger(__name__)
MAX_SAMPLE = 10_000  # passages
HEADERS = {413: {"connection": "close"}, 429: {"retry-after": "1"}}  # of error responses, by status
HALF_SURROGATE = re.compile("[\ud800-\udfff]")
GONE = 499  # nginx's status for a connection closed by the client; used in the metrics only


class _RefusalError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class _Service:
    """The endpoints."""

    def __init__(self, retriever: Retriever, limits: Limits) -> None:
        self.limits = limits
        self.passages = len(retriever)
        self.fingerprint = retriever.fingerprint()
        self.index = index_mark(self.fingerprint)
        self.max_k = min(limits.max_k, self.passages)
        self.registry = CollectorRegistry()
        self.requests = Counter("retriever_requests", "Requests.", ["path", "status"], registry=self.registry)
        self.queries = Counter("retriever_queries", "Queries of valid requests.", registry=self.registry)
        self.seconds = Histogram(
            "retriever_request_seconds", "Seconds from request to response.", ["path"], registry=self.registry
        )
        sizes = [2**i for i in range(12)]
        batches = Histogram("retriever_batch_queries", "Queries per search.", buckets=sizes, registry=self.registry)
        waiting = Gauge("retriever_waiting_queries", "Queries waiting or being searched.", registry=self.registry)
        self.batcher = Batcher(
            retriever, max_batch=limits.max_batch, max_waiting=limits.max_waiting, observe=batches.observe
        )
        waiting.set_function(lambda: self.batcher.waiting)

    async def retrieve(self, request: Request) -> Response:
        """POST /retrieve."""
        return await self._answer(request, self._retrieve)

    async def sample(self, request: Request) -> Response:
        """POST /sample."""
        return await self._answer(request, self._sample)

    async def health(self) -> dict[str, Any]:
        """GET /health."""
        return {"status": "ok", "passages": self.passages, "fingerprint": self.fingerprint}

    async def metrics(self) -> Response:
        """GET /metrics."""
        text = generate_latest(self.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def _answer(self, request: Request, work: Callable[[dict[str, Any]], Awaitable[str]]) -> Response:
        """The response with the result of `work` on the body, a JSON text, or with an error."""
        start = time.perf_counter()
        headers = {INDEX_HEADER: self.index}
        try:
            body = await self._body(request)
            status, content = 200, f'{{"result": {await _unless_gone(request, work(body))}}}'
        except Exception as error:
            status = _status(error)
            content = json.dumps({"detail": f"{error}"})
            headers |= HEADERS.get(status, {})
        self.requests.labels(request.url.path, str(status)).inc()
        self.seconds.labels(request.url.path).observe(time.perf_counter() - start)
        return Response(content, status, headers, media_type="application/json")

    async def _body(self, request: Request) -> dict[str, Any]:
        limit, size, received = self.limits.max_body_bytes, 0, bytearray()
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                received += chunk
            elif size > 4 * limit:  # read and drop up to here: a client that is still sending reads no response
                break
        if size > limit:
            raise _RefusalError(
                413, f"the body has more than {limit} bytes, the maximum (--max-body-bytes): split the request"
            )
        try:
            body = json.loads(received.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _RefusalError(400, f"the body is not JSON in UTF-8 ({error}); send a JSON object") from error
        if not isinstance(body, dict):
            raise _RefusalError(422, f"the body is {_show(body)}; it must be a JSON object")
        return body

    async def _retrieve(self, body: dict[str, Any]) -> str:
        queries, k, scores = self._queries(body), self._count(body, "topk", self.max_k), _flag(body, "return_scores")
        most = self.limits.max_results
        if len(queries) * k > most:
            raise _RefusalError(
                413,
                f"{len(queries)} queries with topk {k} are {len(queries) * k} passages: at most {most} per request "
                f"(--max-results); split the queries, {most // k} a request, or lower topk",
            )
        self.queries.inc(len(queries))
        times = collections.Counter(query for query in queries if query.strip())
        distinct, lists, size = iter(times), dict[str, str](), 0
        async with aclosing(self.batcher.search(list(times), k)) as parts:
            async for part in parts:
                for passages, query in zip(part, distinct, strict=False):
                    lists[query] = json.dumps(write_passages(passages, scores), allow_nan=False)
                    size += len(lists[query]) * times[query]
                    self._check_size(size)
        return f"[{', '.join(lists.get(query, '[]') for query in queries)}]"

    def _check_size(self, size: int) -> None:
        if size > self.limits.max_response_bytes:
            raise _RefusalError(
                413,
                f"the response has more than {self.limits.max_response_bytes} bytes, the maximum "
                "(--max-response-bytes): split the request, or lower topk",
            )

    async def _sample(self, body: dict[str, Any]) -> str:
        n, seed = self._count(body, "n", min(MAX_SAMPLE, self.passages)), body.get("seed")
        if type(seed) is not int or not 0 <= seed < 2**64:
            raise _RefusalError(422, f"seed is {_show(seed)}: it must be an integer from 0 to 2**64 - 1")
        drawn = json.dumps(write_passages(await self.batcher.sample(n, seed), scores=False))
        self._check_size(len(drawn))
        return drawn

    def _queries(self, body: dict[str, Any]) -> list[str]:
        queries = body["queries"] if "queries" in body else [body.get("query")]
        if "queries" not in body and "query" not in body:
            raise _RefusalError(422, f"the fields are {_show(sorted(body))}: pass `queries`, a list of strings")
        if not isinstance(queries, list):
            raise _RefusalError(422, f"queries is {_show(queries)}: it must be a list of strings, even for one query")
        for i, query in enumerate(queries):
            if not isinstance(query, str):
                raise _RefusalError(422, f"query {i} is {_show(query)}: it must be a string")
            if len(query) > MAX_QUERY_CHARS:
                raise _RefusalError(
                    422, f"query {i} has {len(query)} characters: at most {MAX_QUERY_CHARS}; shorten {_show(query)}"
                )
            if HALF_SURROGATE.search(query):
                raise _RefusalError(
                    422, f"query {i} contains half of a surrogate pair: it must be Unicode text; correct {_show(query)}"
                )
        return queries

    def _count(self, body: dict[str, Any], name: str, most: int) -> int:
        count = body.get(name)
        if count is None and name == "topk":
            return min(self.limits.default_k, most)
        if type(count) is not int or not 1 <= count <= most:
            raise _RefusalError(
                422, f"{name} is {_show(count)}: it must be an integer from 1 to {most} ({self.passages} passages)"
            )
        return count


def make_app(retriever: Retriever, limits: Limits | None = None, hosts: Iterable[str] = ()) -> FastAPI:
    """The service as an ASGI application; the caller closes the retriever. `hosts`: see `Admission`."""
    service = _Service(retriever, limits or Limits())
    # Bodies are parsed manually, so there is no schema. A redirect would go to the host that the client names.
    app = FastAPI(title="IGSearch retrieval", openapi_url=None, redirect_slashes=False)
    app.add_middleware(Admission, hosts=tuple(hosts))
    app.add_api_route("/retrieve", service.retrieve, methods=["POST"], response_model=None)
    app.add_api_route("/sample", service.sample, methods=["POST"], response_model=None)
    app.add_api_route("/health", service.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", service.metrics, methods=["GET"], response_model=None)
    return app


async def _unless_gone(request: Request, work: Awaitable[str]) -> str:
    """The result of `work`, which is cancelled when the client closes the connection."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _status(error: Exception) -> int:
    """The status code of an error. Logs bugs."""
    if isinstance(error, _RefusalError):
        return error.status
    for kind, status in ((ClientDisconnect, GONE), (QueryError, 422), (BusyError, 429), (RetrievalError, 503)):
        if isinstance(error, kind):
            return status
    if not isinstance(error, BrokenError):  # already logged where it was raised
        logger.error("a request failed", exc_info=error)
    return 500


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise _RefusalError(422, f"{name} is {_show(value)}: it must be true or false")
    return value


def _show(value: Any) -> str:
    """A value for an error message, abbreviated."""
    return reprlib.repr(value)
