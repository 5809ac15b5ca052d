"""One request to one address: sent once; its response is parsed, rejected, or worth another attempt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import httpx

from retrievers.base import QueryError, RetrieverError
from retrievers.service.deadline import OverdueError, within
from retrievers.service.wire import MALFORMED

T = TypeVar("T")
CONNECT_SECONDS = 5.0  # a running machine accepts a connection well within this
MAX_ANSWER_BYTES = 256 * 2**20
TRANSIENT = frozenset({429, 500, 502, 503, 504})  # status codes after which the same request may succeed


class RefusedError(QueryError):
    """A 4xx response: the same request would be rejected again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooLargeError(RefusedError):
    """Status 413: a smaller request may be accepted."""


class AttemptError(Exception):
    """A failed attempt that may succeed when repeated; `wait`: seconds that the server asked to wait."""

    def __init__(self, seen: str, wait: float = 0.0) -> None:
        super().__init__(seen)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    headers: httpx.Headers
    content: bytes

    def __str__(self) -> str:
        start = self.content[:800].decode("utf-8", "replace")[:200]
        return f"status {self.status}, {self.headers.get('content-type', 'no content type')}, {start!r}"


@dataclass(frozen=True)
class Request(Generic[T]):
    """A request, and the parser of the body of a response with status 200 (raises one of `MALFORMED`).

    `body`: a JSON object, or bytes of JSON lines.
    """

    method: str
    path: str
    body: dict[str, Any] | bytes | None
    read: Callable[[bytes], T]

    def send(self, client: httpx.Client, url: str, seconds: float, auth: httpx.Auth | None = None) -> Answer:
        """The response of one address, with status 200, within `seconds`.

        Raises `AttemptError` if the same request may succeed later or elsewhere, `RefusedError` if not.
        """
        where = url + self.path
        try:
            answer = within(seconds, partial(_receive, client, self.method, where, self.body, seconds, auth))
        except OverdueError as error:
            raise AttemptError(f"ReadTimeout: the response was {error}") from error
        except httpx.HTTPError as error:
            raise AttemptError(f"{type(error).__name__}: {error}") from error
        if answer.status in TRANSIENT:
            raise AttemptError(str(answer), wait=_retry_after(answer.headers))
        if 400 <= answer.status < 500:
            what = f"{where} rejected the request: {_detail(answer)}"
            kind = TooLargeError if answer.status == 413 else RefusedError
            raise kind(f"{what}; correct the call or the address", answer.status)
        if answer.status != 200:
            raise AttemptError(str(answer))
        return answer

    def result(self, answer: Answer) -> T:
        """The parsed body of a response. Raises `AttemptError` if it is malformed, and what else its reader raises."""
        try:
            return self.read(answer.content)
        except RetrieverError:  # some are ValueErrors as well
            raise
        except MALFORMED as error:
            raise AttemptError(f"not a response of such a service ({error}): {answer}") from error


def _receive(
    client: httpx.Client,
    method: str,
    url: str,
    body: dict[str, Any] | bytes | None,
    seconds: float,
    auth: httpx.Auth | None,
) -> Answer:
    content: dict[str, Any] = {"json": body}
    if isinstance(body, bytes):
        content = {"content": body, "headers": {"content-type": "application/x-ndjson"}}
    timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    with client.stream(method, url, timeout=timeout, auth=auth, **content) as response:
        received = bytearray()
        for chunk in response.iter_bytes():
            received += chunk
            if len(received) > MAX_ANSWER_BYTES:
                raise httpx.DecodingError(f"the response has more than {MAX_ANSWER_BYTES} bytes")
        return Answer(response.status_code, response.headers, bytes(received))


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds of a Retry-After header; 0.0 without one, or for a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _detail(answer: Answer) -> str:
    """The reason that a server gives for rejecting a request."""
    try:
        content = json.loads(answer.content)
        return f"status {answer.status}, {str(content.get('detail') or content['error'])[:500]}"
    except (*MALFORMED, KeyError, TypeError, AttributeError):
        return str(answer)
