"""Connections of the service: whatever clients leave half done, the others are served and the server can end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from services import process, serving
from test_server import BM25, HEAD, GatedRetriever

from igsearch.testing.retriever_contract import CORPUS
from retrievers import BM25Retriever, Passage
from retrievers.corpus import write_corpus
from retrievers.service import connections
from retrievers.service.endpoints import make_app

WAIT = 60.0  # seconds after which a test fails
HALVES = {
    "nothing": b"",
    "a request line": b"POST /retrieve",
    "a header": HEAD + b"Content-Le",
    "no body": HEAD + b"Content-Length: 18\r\n\r\n",
    "half a body": HEAD + b'Content-Length: 18\r\n\r\n{"query": ',
    "a chunk": HEAD + b'Transfer-Encoding: chunked\r\n\r\n2\r\n{"',
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits little."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(connections, name, 0.3)


def connect(url: str) -> socket.socket:
    """A connection to a service."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=WAIT)


def received(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    content = bytearray()
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            content += part
    return bytes(content)


def drip(connection: socket.socket, bytes_: Iterator[bytes]) -> None:
    """Send a byte now and then until the other side closes the connection. Fails if it does not."""
    ends = time.monotonic() + WAIT
    with pytest.raises(OSError, match=r"reset|Broken pipe"):  # noqa: PT012
        while time.monotonic() < ends:
            connection.sendall(next(bytes_))
            time.sleep(0.02)


def forever(byte: bytes) -> Iterator[bytes]:
    while True:
        yield byte


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.usefixtures("impatient")
def test_a_request_that_is_not_completed_is_closed(half: str) -> None:
    with serving(make_app(BM25)) as url, connect(url) as connection:
        connection.sendall(HALVES[half])
        assert received(connection) == b""


@pytest.mark.parametrize(
    ("start", "byte"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: ", b"a"),
        (HEAD + b"Content-Length: 8000000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_arrives_does_not_give_more_time(start: bytes, byte: bytes) -> None:
    with serving(make_app(BM25)) as url, connect(url) as connection:
        connection.sendall(start)
        drip(connection, forever(byte))


def test_a_further_request_has_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    with serving(make_app(BM25)) as url:
        client = HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=WAIT)
        for pause in (1.2, 0.0):  # an unused connection is kept for longer
            client.request("GET", "/health")
            answer = client.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
            time.sleep(pause)
        client.sock.sendall(b"GET /health")
        assert received(client.sock) == b""
        client.close()


@pytest.mark.usefixtures("impatient")
def test_a_response_that_is_not_read_is_given_up() -> None:
    body = b'{"queries": ["river"%s]}' % (b', "river"' * 99)
    large = BM25Retriever([Passage("1", "River", "river " * 40_000)])  # 24 MB in all, more than buffers hold
    with serving(make_app(large)) as url, connect(url) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert connection.recv(12) == b"HTTP/1.1 200"
        time.sleep(1.0)
        assert len(received(connection)) < 24_000_000


def test_many_half_open_connections_keep_nobody_out() -> None:
    with serving(make_app(BM25), max_connections=8) as url, ExitStack() as stack:
        halves = [stack.enter_context(connect(url)) for _ in range(60)]
        for i, half in enumerate(halves):
            half.sendall(list(HALVES.values())[i % len(HALVES)])
        with httpx.Client(trust_env=False, timeout=WAIT) as client:
            for _ in range(3):
                assert client.post(f"{url}/retrieve", json={"query": "river"}).status_code == 200
        for half in halves[:50]:  # closed, though the limits of time are far away
            assert received(half) == b""


def test_connections_at_work_are_not_closed_for_others() -> None:
    retriever = GatedRetriever()
    with (
        serving(make_app(retriever), max_connections=2) as url,
        httpx.Client(trust_env=False, timeout=WAIT) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        searches = [pool.submit(client.post, f"{url}/retrieve", json={"query": "river"}) for _ in range(2)]
        while len(retriever.searches) < 1:
            time.sleep(0.01)
        refused = b""
        while b"503" not in refused:  # the second search may not have arrived yet
            with connect(url) as third:
                third.settimeout(0.2)
                with suppress(TimeoutError):
                    refused = third.recv(65536)
        assert b"too many connections are open" in refused
        retriever.gate.set()
        assert [search.result().status_code for search in searches] == [200, 200]


PATIENT_SERVICE = """
from retrievers import server
from retrievers.service import connections
connections.HEAD_SECONDS = connections.BODY_SECONDS = connections.SHUTDOWN_SECONDS = 3600
server.command()
"""


def test_incomplete_requests_do_not_hold_up_the_end(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_corpus(CORPUS, path)
    with process("-c", PATIENT_SERVICE, "--corpus", str(path), "--port", "0") as (service, url), ExitStack() as stack:
        for half in HALVES.values():
            stack.enter_context(connect(url)).sendall(half)
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200  # the server has seen them
        service.terminate()
        assert service.wait(WAIT) == 0
