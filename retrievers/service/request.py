"""One request to one address: sent once, and its answer read, refused, or worth another attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from retrievers.base import QueryError
from retrievers.service.wire import MALFORMED

T = TypeVar("T")
CONNECT_SECONDS = 5.0  # a machine that is up accepts a connection well within this
MAX_ANSWER_BYTES = 256 * 2**20
TRANSIENT = frozenset({429, 500, 502, 503, 504})  # status codes after which the same request may succeed


class RefusedError(QueryError):
    """A 4xx answer: the same request would be refused again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AttemptError(Exception):
    """What one attempt saw that a further one may not; `wait`: seconds that the server asked to be left alone for."""

    def __init__(self, seen: str, wait: float = 0.0) -> None:
        super().__init__(seen)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: httpx.Headers
    content: bytes

    def __str__(self) -> str:
        start = self.content[:800].decode("utf-8", "replace")[:200]
        return f"status {self.status}, {self.headers.get('content-type', 'no content type')}, {start!r}"


@dataclass(frozen=True)
class Request(Generic[T]):
    """What to ask, and how to read the body of an answer with status 200 (raises one of `MALFORMED`)."""

    method: str
    path: str
    body: dict[str, Any] | None
    read: Callable[[bytes], T]

    def send(self, client: httpx.Client, url: str, seconds: float) -> Answer:
        """The answer of one address, with status 200, within so many seconds.

        Raises `AttemptError` where the same request may succeed later or elsewhere, `RefusedError` where it may not.
        """
        where = url + self.path
        try:
            answer = _receive(client, self.method, where, self.body, seconds)
        except httpx.HTTPError as error:
            raise AttemptError(f"{type(error).__name__}: {error}") from error
        if answer.status in TRANSIENT:
            raise AttemptError(str(answer), wait=_retry_after(answer.headers))
        if 400 <= answer.status < 500:
            what = f"{where} refused the request: {_detail(answer)}"
            raise RefusedError(f"{what}; correct the call or the address", answer.status)
        if answer.status != 200:
            raise AttemptError(str(answer))
        return answer

    def result(self, answer: Answer) -> T:
        """What an answer holds. Raises `AttemptError` for one that can't be read."""
        try:
            return self.read(answer.content)
        except MALFORMED as error:
            raise AttemptError(f"no answer of a retrieval service ({error}): {answer}") from error


def _receive(client: httpx.Client, method: str, url: str, body: dict[str, Any] | None, seconds: float) -> Answer:
    ends = time.monotonic() + seconds
    timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    with client.stream(method, url, json=body, timeout=timeout) as response:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if time.monotonic() > ends:  # a trickle never times out by itself
                raise httpx.ReadTimeout(f"the answer was not complete within {seconds:.1f} s")
            if len(content) > MAX_ANSWER_BYTES:
                raise httpx.DecodingError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        return Answer(response.status_code, response.headers, bytes(content))


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds of a Retry-After header; 0.0 for none, and for a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _detail(answer: Answer) -> str:
    """What a server gives as the reason of a refusal."""
    try:
        return f"status {answer.status}, {str(json.loads(answer.content)['detail'])[:500]}"
    except (*MALFORMED, KeyError, TypeError):
        return str(answer)
