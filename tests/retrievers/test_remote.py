"""The client of a retrieval service: it keeps the contract over any network, and never takes a failure for evidence."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from services import SearchR1Service, free_port, raw_service, serving

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from igsearch_env import IGSearchEnv
from igsearch_env.questions import Question
from retrievers import (
    BM25Retriever,
    IndexMismatchError,
    Passage,
    QueryError,
    RemoteRetriever,
    RetrievalError,
    Retriever,
    open_retriever,
)
from retrievers.service import replicas
from retrievers.service.endpoints import make_app
from retrievers.service.faults import RETRIEVER_FAULTS, TRANSPORT_FAULTS, FaultyRetriever, FaultyTransport
from retrievers.service.limits import Limits

BM25 = BM25Retriever(CORPUS)
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service of ours over `CORPUS`."""
    with serving(make_app(BM25)) as address:
        yield address


def remote(handler: Handler | httpx.BaseTransport, urls: str = "http://a", **options: Any) -> RemoteRetriever:
    """A client of `handler`, with `CORPUS`, that does not wait between attempts."""
    transport = handler if isinstance(handler, httpx.BaseTransport) else httpx.MockTransport(handler)
    return RemoteRetriever(urls, transport=transport, **{"passages": CORPUS, "backoff": 0.0, **options})


def scored(*passages: Passage) -> list[dict[str, Any]]:
    """A result list as a service gives it."""
    return [{"document": {"id": p.id, "contents": f'"{p.title}"\n{p.text}'}, "score": p.score} for p in passages]


GOOD = BM25.search(["capital"], 3)[0]


def good(request: httpx.Request) -> httpx.Response:
    """The answer to a search for "capital"."""
    return httpx.Response(200, json={"result": [scored(*GOOD)]})


class TestOverHTTP(RetrieverContract):
    @pytest.fixture
    def retriever(self, url: str) -> Iterator[RemoteRetriever]:
        with closing(RemoteRetriever(url, batch_size=2)) as retriever:
            yield retriever


class TestSearchR1Service(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> Iterator[RemoteRetriever]:
        with closing(remote(SearchR1Service(BM25))) as retriever:
            yield retriever


class TestOverBadNetwork(RetrieverContract):
    """Two requests in five fail, in every way there is; no answer differs."""

    @pytest.fixture
    def retriever(self) -> Iterator[RemoteRetriever]:
        transport = FaultyTransport(SearchR1Service(BM25), rate=0.4, seed=0, delay=0.0)
        with closing(remote(transport, "http://a,http://b", attempts=20, batch_size=2)) as retriever:
            yield retriever


class TestFaultyRetrieverWithoutFaults(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> FaultyRetriever:
        return FaultyRetriever(BM25, rate=0.0, seed=0)


# ---------------------------------------------------------------- what is sent, what is read


def test_what_is_sent_is_search_r1s_request() -> None:
    service = SearchR1Service(BM25)
    with closing(remote(service)) as retriever:
        retriever.search(["river", "  ", "Tagus"], 2)
    assert service.requests == [{"queries": ["river", "Tagus"], "topk": 2, "return_scores": True}]
    assert service.urls == ["http://a/retrieve"]


def test_blank_queries_are_not_sent() -> None:
    with closing(remote(SearchR1Service(BM25))) as retriever:
        assert retriever.search(["", " \n"], 2) == [[], []]
        assert retriever.stats.requests == 0


def test_the_constructor_asks_nothing() -> None:
    RemoteRetriever(f"http://127.0.0.1:{free_port()}").close()


@pytest.mark.parametrize("address", ["http://a", "http://a/", "http://a/retrieve", " http://a/retrieve/ "])
def test_addresses_with_and_without_the_path(address: str) -> None:
    service = SearchR1Service(BM25)
    with closing(remote(service, address)) as retriever:
        retriever.search(["river"], 1)
    assert service.urls == ["http://a/retrieve"]


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("localhost:8000", "'localhost:8000' .*http://"),
        ("ftp://a", "'ftp://a' .*http://"),
        ("http://", "a host"),
        ("http://a:port", "'http://a:port'.*use http://HOST:PORT"),
        ([], "urls is empty: pass at least one"),
    ],
)
def test_bad_addresses_are_named(urls: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        RemoteRetriever(urls)


@pytest.mark.parametrize("options", [{"deadline": 0}, {"attempts": 0}, {"backoff": -1}, {"batch_size": 0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(QueryError, match=rf"{name}={value}.*{name}.* must be|{name}={value}.*at least"):
        RemoteRetriever("http://a", **options)


def with_title_and_text(document: dict[str, Any]) -> dict[str, Any]:
    title, _, text = document["contents"].partition("\n")
    return {**document, "title": title.strip('"'), "text": text}


def with_an_integer_id(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "id": int(document["id"])}


def without_contents(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in with_title_and_text(document).items() if key != "contents"}


@pytest.mark.parametrize("shape", [dict, with_title_and_text, with_an_integer_id, without_contents])
def test_forms_of_documents(shape: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    with closing(remote(SearchR1Service(BM25, shape=shape))) as retriever:
        assert retriever.search(QUERIES, 3) == BM25.search(QUERIES, 3)
    with closing(remote(SearchR1Service(BM25, shape=shape, scores=False))) as retriever:
        expected = [[passage.with_score(0.0) for passage in passages] for passages in BM25.search(QUERIES, 3)]
        assert retriever.search(QUERIES, 3) == expected


def test_a_document_without_an_id_gets_that_of_its_contents() -> None:
    service = SearchR1Service(BM25, shape=lambda document: {"contents": document["contents"]})
    with closing(remote(service)) as retriever:
        river, again, other = retriever.search(["river", "northern river", "Tagus"], 1)
    assert river[0].id == again[0].id != other[0].id
    assert re.fullmatch("[0-9a-f]{16}", river[0].id)


def test_titles_keep_their_quotes_where_parity_needs_them() -> None:
    with closing(remote(SearchR1Service(BM25), verbatim_titles=True)) as retriever:
        assert retriever.search(["Tagus"], 1)[0][0].title == '"Lisbon"'


def test_what_a_server_pads_with_counts_once() -> None:
    padded = scored(GOOD[0], GOOD[1], GOOD[1], GOOD[1])
    with closing(remote(lambda request: httpx.Response(200, json={"result": [padded]}))) as retriever:
        assert retriever.search(["river"], 4) == [GOOD[:2]]


def test_half_surrogates_are_replaced() -> None:
    service = SearchR1Service(BM25)
    with closing(remote(service)) as retriever:
        assert retriever.search(["river \ud800"], 1) == BM25.search(["river"], 1)
    assert service.requests[0]["queries"] == ["river \ufffd"]
    content = b'{"result": [[{"document": {"id": "1", "contents": "a\\ud800\\nb"}, "score": 1}]]}'
    with closing(remote(lambda request: httpx.Response(200, content=content))) as retriever:
        assert retriever.search(["river"], 1) == [[Passage("1", "a\ufffd", "b", 1.0)]]


def test_batches_are_split_over_the_replicas_in_turn() -> None:
    service = SearchR1Service(BM25)
    queries = [f"{query} {i}" for i in range(5) for query in QUERIES]
    with closing(remote(service, "http://a,http://b,http://c", batch_size=4)) as retriever:
        assert retriever.search(queries, 3) == BM25.search(queries, 3)
    assert sorted(len(request["queries"]) for request in service.requests) == [1, 4, 4, 4, 4, 4, 4]
    assert sorted(service.urls) == sorted([f"http://{host}/retrieve" for host in "aaabbcc"])


def test_threads_may_share_a_client(url: str) -> None:
    expected = [passage.id for passage in BM25.sample(3, np.random.default_rng(0))]
    with closing(RemoteRetriever(url, batch_size=2)) as retriever, ThreadPoolExecutor(8) as pool:
        first = [passage.id for passage in retriever.sample(3, np.random.default_rng(0))]
        searches = [pool.submit(retriever.search, [QUERIES[i % 5], f"{QUERIES[i % 5]} {i}"], 3) for i in range(40)]
        samples = [pool.submit(retriever.sample, 3, np.random.default_rng(0)) for _ in range(10)]
        for i, search in enumerate(searches):
            assert search.result() == BM25.search([QUERIES[i % 5], f"{QUERIES[i % 5]} {i}"], 3)
        assert all([passage.id for passage in sample.result()] == first for sample in samples)
    assert len(expected) == len(first)


# ---------------------------------------------------------------- failures


def then_good(*faults: httpx.Response | httpx.TransportError) -> tuple[Handler, list[str]]:
    """A service with these faults, one a request, and good after that; and the hosts that were asked."""
    left, hosts = list(faults), []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        if not left:
            return good(request)
        fault = left.pop(0)
        if isinstance(fault, httpx.TransportError):
            raise fault
        return fault

    return answer, hosts


TRANSIENT: list[tuple[Callable[[], Any], str]] = [
    (lambda: httpx.ConnectError("refused"), "ConnectError: refused"),
    (lambda: httpx.ConnectTimeout("slow"), "ConnectTimeout"),
    (lambda: httpx.ReadTimeout("slow"), "ReadTimeout"),
    (lambda: httpx.ReadError("reset"), "ReadError: reset"),
    (lambda: httpx.RemoteProtocolError("disconnected"), "RemoteProtocolError: disconnected"),
    (lambda: httpx.Response(429, json={"detail": "busy"}), "status 429.*busy"),
    (lambda: httpx.Response(500, text="boom"), "status 500, text/plain.*'boom'"),
    (lambda: httpx.Response(502), "status 502, no content type, ''"),
    (lambda: httpx.Response(503, text="loading"), "status 503.*loading"),
    (lambda: httpx.Response(504), "status 504"),
    (lambda: httpx.Response(302, headers={"location": "/login"}), "status 302"),
    (lambda: httpx.Response(200, html="<html>log in</html>"), "status 200, text/html.*<html>log in"),
    (lambda: httpx.Response(200, content=b'{"result": [[{"docum'), "status 200.*docum"),
    (lambda: httpx.Response(200, content=b"\xff\xfe\x00"), "status 200"),
    (lambda: httpx.Response(200, content=b"[" * 100_000), "recursion"),
    (
        lambda: httpx.Response(200, stream=httpx.ByteStream(b"not gzip"), headers={"content-encoding": "gzip"}),
        "DecodingError",
    ),
    (lambda: httpx.Response(200, json=[]), 'no list "result"'),
    (lambda: httpx.Response(200, json={"result": "passages"}), 'no list "result"'),
    (lambda: httpx.Response(200, json={"result": []}), "0 lists for 1 queries"),
    (lambda: httpx.Response(200, json={"result": [[], []]}), "2 lists for 1 queries"),
    (lambda: httpx.Response(200, json={"result": ["text"]}), "a result is 'text', not a list"),
    (lambda: httpx.Response(200, json={"result": [["text"]]}), "a passage is 'text', not an object"),
    (lambda: httpx.Response(200, json={"result": [[{"document": 3, "score": 1}]]}), "a document is 3"),
    (lambda: httpx.Response(200, json={"result": [[{"id": "1"}]]}), r"\['id'\] has no string `contents`"),
    (lambda: httpx.Response(200, json={"result": [[{"id": [1], "contents": "a"}]]}), r"id \[1\] is neither"),
    (lambda: httpx.Response(200, json={"result": [scored(*GOOD, *CORPUS[:2])]}), "5 passages.*at most 3"),
    (lambda: httpx.Response(200, json={"result": [scored(*reversed(GOOD))]}), "increase: the best must come first"),
    *(
        (lambda score=score: one_score(score), r"score .* is not a finite number")  # type: ignore[misc]
        for score in (b"null", b'"high"', b"NaN", b"Infinity", b"true", b"[1]")
    ),
    (lambda: one_score(b"1" + b"0" * 400), "status 200"),
]


def one_score(score: bytes) -> httpx.Response:
    """An answer of one passage with this score."""
    return httpx.Response(
        200, content=b'{"result": [[{"document": {"id": "1", "contents": "a"}, "score": ' + score + b"}]]}"
    )


@pytest.mark.parametrize(("fault", "seen"), TRANSIENT)
def test_a_fault_is_overcome_or_named_and_never_evidence(fault: Callable[[], Any], seen: str) -> None:
    handler, hosts = then_good(fault())
    with closing(remote(handler)) as retriever:
        assert retriever.search(["river"], 3) == [GOOD]
        assert (retriever.stats.requests, retriever.stats.retries, retriever.stats.failures) == (2, 1, 0)
    handler, hosts = then_good(fault())
    with closing(remote(handler, "http://a,http://b", backoff=60.0)) as retriever:
        assert retriever.search(["river"], 3) == [GOOD]  # at once, at the other replica
        assert (hosts, retriever.stats.failovers, retriever.stats.retries) == (["a", "b"], 1, 0)
    handler, _ = then_good(*(fault() for _ in range(3)))
    with closing(remote(handler, attempts=3)) as retriever:
        with pytest.raises(RetrievalError, match=seen) as caught:
            retriever.search(["river"], 3)
        assert re.search(r"\(3 attempts, \d.* s of a deadline of 60 s\): http://a/retrieve: ", str(caught.value))
        assert "Check that it runs (GET http://a/health)" in str(caught.value)
        assert caught.value.results is None
        assert retriever.stats.failures == 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refusal_is_not_repeated(status: int) -> None:
    handler, hosts = then_good(httpx.Response(status, json={"detail": "topk is 9: lower it"}))
    with closing(remote(handler, "http://a,http://b")) as retriever:
        with pytest.raises(QueryError, match=rf"http://a/retrieve.*status {status}, topk is 9: lower it; correct"):
            retriever.search(["river"], 3)
        assert hosts == ["a"]


def test_our_servers_refusal_reaches_the_caller(url: str) -> None:
    with closing(RemoteRetriever(url, passages=CORPUS * 20)) as retriever, pytest.raises(QueryError, match="topk is 9"):
        retriever.search(["river"], 9)


def test_retry_after_is_honoured_within_the_deadline() -> None:
    handler, hosts = then_good(httpx.Response(429, headers={"retry-after": "1"}))
    with closing(remote(handler)) as retriever:
        start = time.monotonic()
        assert retriever.search(["river"], 3) == [GOOD]
        assert time.monotonic() - start >= 1.0
    handler, hosts = then_good(httpx.Response(503, headers={"retry-after": "3600"}))
    with closing(remote(handler)) as retriever:
        with pytest.raises(RetrievalError, match=r"\(1 attempts.*status 503"):
            retriever.search(["river"], 3)
        assert len(hosts) == 1


def test_a_part_that_fails_leaves_the_others() -> None:
    service = SearchR1Service(BM25)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if b"Tagus" in request.content else service.answer(request)

    with closing(remote(answer, batch_size=2)) as retriever:
        with pytest.raises(RetrievalError, match=r"2 of 5 queries failed: .*status 500") as caught:
            retriever.search([*QUERIES, ""], 2)
        expected = BM25.search(QUERIES, 2)
        assert caught.value.results == [expected[0], expected[1], None, None, expected[4], []]


@pytest.mark.parametrize(
    "limits",
    [Limits(max_results=9, max_k=8), Limits(max_body_bytes=160), Limits(max_response_bytes=900)],
    ids=["passages", "body", "response"],
)
def test_what_the_service_refuses_as_too_large_is_sent_in_halves(limits: Limits) -> None:
    queries = [f"{query} {i}" for i in range(4) for query in QUERIES]
    with serving(make_app(BM25, limits)) as url, closing(RemoteRetriever(url)) as retriever:
        assert retriever.search(queries, 3) == BM25.search(queries, 3)


def test_one_query_that_is_too_large_is_refused() -> None:
    with (
        serving(make_app(BM25, Limits(max_body_bytes=160))) as url,
        closing(RemoteRetriever(url)) as retriever,
        pytest.raises(QueryError, match=r"status 413, the body has more than 160 bytes.*--max-body-bytes"),
    ):
        retriever.search([*QUERIES, "river " * 60], 3)


def test_a_large_batch_may_take_longer_than_a_request_may() -> None:
    service = SearchR1Service(BM25)
    lock, together = threading.Lock(), []

    def slowly(request: httpx.Request) -> httpx.Response:
        with lock:
            together.append(1)
            assert len(together) <= 4
        time.sleep(0.15)
        with lock:
            together.pop()
        return service.answer(request)

    queries = [f"{query} {i}" for i in range(16) for query in QUERIES]
    with closing(remote(slowly, batch_size=2, deadline=1.3, attempts=1)) as retriever:
        start = time.monotonic()
        assert retriever.search(queries, 3) == BM25.search(queries, 3)
        assert time.monotonic() - start > 1.3  # 40 requests, four at a time


def test_a_batch_fails_when_nothing_is_answered_for_as_long_as_a_request_may_take() -> None:
    service, ended, asked = SearchR1Service(BM25), threading.Event(), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) > 4:
            ended.wait(30)
        return service.answer(request)

    queries = [f"{query} {i}" for i in range(16) for query in QUERIES]
    with closing(remote(answer, batch_size=2, deadline=0.5, attempts=1)) as retriever:
        with pytest.raises(RetrievalError, match=r"\d\d of 80 queries failed: .*of 0.5 s") as caught:
            retriever.search(queries, 3)
        assert caught.value.results is not None
        assert 8 <= len([found for found in caught.value.results if found is not None]) <= 10
        ended.set()


def test_a_dead_replica_costs_no_query() -> None:
    service = SearchR1Service(BM25)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "dead":
            raise httpx.ConnectError("refused")
        return service.answer(request)

    with closing(remote(answer, "http://dead,http://up", batch_size=1)) as retriever:
        for _ in range(20):
            assert retriever.search(QUERIES, 3) == BM25.search(QUERIES, 3)
        assert retriever.stats.failures == retriever.stats.retries == 0
        assert 1 <= retriever.stats.failovers == asked.count("dead") <= len(QUERIES)  # it is left alone after that


def test_a_replica_that_recovers_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "COOLDOWN", 0.02)
    handler, hosts = then_good(httpx.ConnectError("refused"))
    with closing(remote(handler, "http://a,http://b")) as retriever:
        retriever.search(["river"], 3)
        time.sleep(0.05)
        for _ in range(4):
            retriever.search(["river"], 3)
    assert hosts[:2] == ["a", "b"]
    assert sorted(hosts[2:]) == ["a", "a", "b", "b"]


def hang(connection: socket.socket, ended: threading.Event) -> None:
    """Accept, and say nothing."""
    ended.wait(30)


def trickle(connection: socket.socket, ended: threading.Event) -> None:
    """Answer a byte at a time, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
    while not ended.wait(0.01):
        connection.sendall(b" ")


def drip_status(connection: socket.socket, ended: threading.Event) -> None:
    """Send a status line that never ends, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 ")
    while not ended.wait(0.01):
        connection.sendall(b"O")


def drip_headers(connection: socket.socket, ended: threading.Event) -> None:
    """Send one header after another, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        for byte in b"x-name: value\r\n":
            if ended.wait(0.01):
                return
            connection.sendall(bytes([byte]))


def drip_chunks(connection: socket.socket, ended: threading.Event) -> None:
    """Send a body of chunks of one byte."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not ended.wait(0.01):
        connection.sendall(b"1\r\n \r\n")


def drip_informational(connection: socket.socket, ended: threading.Event) -> None:
    """Say that the response will come, again and again."""
    while not ended.wait(0.01):
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")


DRIPS = [trickle, drip_status, drip_headers, drip_chunks, drip_informational]


def hang_up(connection: socket.socket, ended: threading.Event) -> None:
    """Read the request, and close the connection."""
    connection.recv(65536)


def babble(connection: socket.socket, ended: threading.Event) -> None:
    """Answer in another protocol."""
    connection.recv(65536)
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize("behaviour", [hang, *DRIPS, hang_up, babble])
def test_a_replica_that_misbehaves_costs_no_query(url: str, behaviour: Any) -> None:
    with (
        raw_service(behaviour) as bad,
        closing(RemoteRetriever([bad, url], passages=CORPUS, deadline=3.0)) as retriever,
    ):
        for _ in range(4):
            assert retriever.search(QUERIES, 3) == BM25.search(QUERIES, 3)
        assert retriever.stats.failures == 0
        assert retriever.stats.failovers >= 1


@pytest.mark.parametrize("behaviour", [drip_headers, drip_chunks])
def test_the_connection_of_a_late_attempt_is_closed(url: str, behaviour: Any) -> None:
    closed = threading.Event()

    def until_closed(connection: socket.socket, ended: threading.Event) -> None:
        try:
            behaviour(connection, ended)
        except OSError:
            closed.set()

    with (
        raw_service(until_closed) as bad,
        closing(RemoteRetriever([bad, url], passages=CORPUS, deadline=4.0, attempts=2)) as found,
    ):
        assert found.search(QUERIES, 3) == BM25.search(QUERIES, 3)
        assert closed.wait(30)


def test_a_body_that_is_read_slowly_is_given_up(url: str) -> None:
    def sip(connection: socket.socket, ended: threading.Event) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while connection.recv(64) and not ended.wait(0.01):
            pass

    queries = [f"river {'x' * 54_000} {i}" for i in range(64)]  # 3.5 MB, more than the buffers of a connection
    with (
        raw_service(sip) as bad,
        closing(RemoteRetriever([bad, url], passages=CORPUS, deadline=6.0, attempts=2)) as retriever,
    ):
        assert retriever.search(queries, 1) == BM25.search(queries, 1)
        assert retriever.stats.failovers == 1


def test_many_searches_at_once_beside_a_dripping_replica(url: str) -> None:
    with (
        raw_service(drip_headers) as bad,
        closing(RemoteRetriever([bad, url], passages=CORPUS, deadline=6.0)) as retriever,
        ThreadPoolExecutor(14) as pool,
    ):
        searches = [pool.submit(retriever.search, [f"river {i}"], 2) for i in range(14)]
        assert [search.result() for search in searches] == [BM25.search([f"river {i}"], 2) for i in range(14)]
        assert retriever.stats.failures == 0
        assert retriever.stats.failovers >= 1


def slow_client(url: str) -> RemoteRetriever:
    """A client that waits little."""
    return RemoteRetriever(url, passages=CORPUS, deadline=0.6, backoff=0.0)


@pytest.mark.parametrize("behaviour", [hang, *DRIPS])
def test_the_deadline_holds_for_the_whole_call(behaviour: Any) -> None:
    with raw_service(behaviour) as bad, closing(slow_client(bad)) as retriever:
        start = time.monotonic()
        with pytest.raises(RetrievalError, match=r"3 attempts.*deadline of 0.6 s.*ReadTimeout"):
            retriever.search(QUERIES, 3)
        assert time.monotonic() - start < 5.0  # without it these would go on for ever


def test_the_deadline_holds_whatever_the_transport_does() -> None:
    ended = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        ended.wait(30)
        return good(request)

    with closing(remote(answer, deadline=0.2)) as retriever:
        with pytest.raises(RetrievalError, match=r"3 attempts.*of 0.2 s.*ReadTimeout: the response was not"):
            retriever.search(["river"], 3)
        ended.set()


def test_nothing_listens() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with closing(open_retriever(address)) as retriever:
        with pytest.raises(RetrievalError, match=rf"{address}/health: ConnectError"):
            retriever.search(QUERIES, 3)
        with pytest.raises(RetrievalError, match="ConnectError"):
            IGSearchEnv([Question("q", "Which river?", ("Seine",), "test")], retriever)


def away(requests: int, first: bool = False) -> tuple[Handler, list[str]]:
    """A service that answers once, unless `first`, and is then away for a number of requests."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) - (not first) in range(1, requests + 1):
            raise httpx.ConnectError("refused")
        return good(request)

    return answer, asked


def test_a_service_that_is_away_for_a_while_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    handler, asked = away(12)
    with closing(remote(handler, attempts=2, backoff=0.001, patience=30.0)) as retriever:
        assert retriever.search(["capital"], 3) == [GOOD]
        assert retriever.search(["capital"], 3) == [GOOD]
        assert len(asked) == 14
        shown = capsys.readouterr().err.splitlines()
        assert [line.startswith("the search service http://a does not answer (ConnectError") for line in shown] == [
            True
        ]
        assert retriever.stats.failures == 0


def test_patience_ends_and_is_not_for_a_service_that_never_answered() -> None:
    handler, asked = away(10**9)
    with closing(remote(handler, attempts=2, backoff=0.01, patience=0.2)) as retriever:
        retriever.search(["capital"], 3)
        with pytest.raises(RetrievalError, match=r"failed \(\d+ attempts"):
            retriever.search(["capital"], 3)
        assert len(asked) > 3
    handler, asked = away(10**9, first=True)
    with (
        closing(remote(handler, attempts=2, backoff=0.01, patience=30.0)) as retriever,
        pytest.raises(RetrievalError, match="2 attempts"),
    ):
        retriever.search(["capital"], 3)
    with pytest.raises(QueryError, match="raise backoff"):
        remote(good, patience=1.0)


def test_an_outage_ends_episodes_without_evidence() -> None:
    handler, _ = then_good(*(httpx.Response(500, text="Internal Server Error") for _ in range(3)))
    with closing(remote(handler)) as retriever:
        env = IGSearchEnv([Question("q", "Which river?", ("Seine",), "test")], retriever, scorer=None)
        env.reset(seed=0)
        observation, reward, _, truncated, info = env.step("<search> river </search>")
    assert (reward, truncated) == (0.0, True)
    assert info["passages"] == ()
    assert "Error" not in observation


# ---------------------------------------------------------------- corpus, random passages, identity


def test_random_passages_of_a_service_are_those_of_its_retriever(url: str) -> None:
    with closing(RemoteRetriever(url)) as retriever:
        drawn = retriever.sample(3, np.random.default_rng(5))
        assert drawn == retriever.sample(3, np.random.default_rng(5))
        seed = int(np.random.default_rng(5).integers(2**62))
        assert drawn == BM25.sample(3, np.random.default_rng(seed))


def test_a_service_without_random_passages_needs_the_corpus() -> None:
    with closing(remote(SearchR1Service(BM25), passages=None)) as retriever:
        with pytest.raises(QueryError, match=r"sample\(n=2\).*status 404.*pass `passages` to RemoteRetriever"):
            retriever.sample(2, np.random.default_rng(0))
        assert retriever.search(["river"], 2) == BM25.search(["river"], 2)
        with pytest.raises(QueryError, match=r"http://a.*number of passages.*pass `passages` to RemoteRetriever"):
            len(retriever)
        retriever.check_count(10**6, "k")  # only the service knows
        with pytest.raises(QueryError, match=r"k=0.*at least 1"):
            retriever.search(["river"], 0)
        assert retriever.fingerprint() == {"engine": "remote", "urls": ["http://a"], "passages": None}
    with closing(remote(SearchR1Service(BM25))) as retriever:
        assert set(retriever.sample(8, np.random.default_rng(0))) == set(CORPUS)
        assert retriever.fingerprint()["passages"] == len(CORPUS)


@pytest.mark.parametrize("health", [b"OK", b"[]", b'{"passages": true}', b'{"passages": -1}', b"\xff"])
def test_health_of_another_kind_is_none(health: bytes) -> None:
    with closing(remote(lambda request: httpx.Response(200, content=health), passages=None)) as retriever:
        retriever.check_count(7, "k")


@pytest.mark.parametrize("status", [401, 403])
def test_a_service_that_refuses_this_client_says_so(status: int) -> None:
    answer = httpx.Response(status, json={"detail": "Host is 'a': it must be an IP address"})
    with closing(remote(lambda request: answer, passages=None)) as retriever:
        for call in (retriever.fingerprint, retriever.__len__, lambda: retriever.check_count(2, "k")):
            with pytest.raises(QueryError, match=rf"http://a/health .*status {status}, Host is 'a': it must be"):
                call()


def test_a_sample_of_too_few_is_no_sample() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"result": scored(*GOOD[:2])})

    with (
        closing(remote(answer, passages=None)) as retriever,
        pytest.raises(RetrievalError, match=r"2 distinct .* 3 were"),
    ):
        retriever.sample(3, np.random.default_rng(0))


def test_the_fingerprint_is_the_engines(url: str) -> None:
    with closing(RemoteRetriever(url)) as retriever:
        assert retriever.fingerprint() == BM25.fingerprint()


def test_replicas_of_different_indexes_are_refused(url: str) -> None:
    with serving(make_app(BM25Retriever(CORPUS, k1=2.0))) as other, closing(RemoteRetriever([url, other])) as retriever:
        retriever.sample(1, np.random.default_rng(0))
        with pytest.raises(IndexMismatchError, match=r"another index \(\w+\).*start all replicas with the same"):
            retriever.search(QUERIES * 20, 2)


# ---------------------------------------------------------------- whatever a service says

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
DOCUMENT = st.fixed_dictionaries(
    {}, optional={"id": st.text() | JSON, "contents": st.text() | JSON, "title": JSON, "text": JSON}
)
ITEM = st.fixed_dictionaries({}, optional={"document": DOCUMENT | JSON, "score": st.floats() | JSON}) | DOCUMENT | JSON
RESULT = st.fixed_dictionaries({"result": st.lists(st.lists(ITEM, max_size=3) | JSON, max_size=2) | JSON})


ANSWER = httpx.Response(200)


@pytest.fixture(scope="module")
def parrot() -> Iterator[RemoteRetriever]:
    """A client of a service that says `ANSWER` to everything."""
    with closing(remote(lambda request: ANSWER, attempts=1, passages=None)) as retriever:
        yield retriever


@given(
    st.binary() | (RESULT | JSON).map(json.dumps).map(str.encode),
    st.sampled_from([200, 200, 200, 200, 204, 301, 400, 404, 429, 500, 503, 599]),
    st.sampled_from(["search", "sample"]),
)
def test_any_answer_is_results_or_a_typed_error(
    parrot: RemoteRetriever, content: bytes, status: int, call: str
) -> None:
    global ANSWER
    ANSWER = httpx.Response(status, content=content)
    kinds = (RetrievalError, QueryError) if 400 <= status < 500 else RetrievalError
    try:
        found = parrot.search(["q"], 2) if call == "search" else [parrot.sample(2, np.random.default_rng(0))]
    except kinds as error:
        message = str(error)
        assert "http://a" in message
        return
    assert status == 200
    assert [len(passages) <= 2 for passages in found] == [True]
    for passage in found[0]:
        assert all(isinstance(text, str) for text in (passage.id, passage.title, passage.text))
        assert np.isfinite(passage.score)


# ---------------------------------------------------------------- faults on purpose


def outcomes(retriever: Retriever, batches: Sequence[Sequence[str]]) -> list[Any]:
    """What each batch gave, errors as (message, results)."""
    seen: list[Any] = []
    for queries in batches:
        try:
            seen.append(retriever.search(queries, 2))
        except RetrievalError as error:
            seen.append((str(error), error.results))
    return seen


def test_faults_depend_on_seed_and_content_alone() -> None:
    batches = [[f"{query} {i}" for query in QUERIES[:2]] for i in range(60)]
    faulty = FaultyRetriever(BM25, rate=0.2, seed=1, delay=0.0)
    seen = outcomes(faulty, batches)
    assert seen == outcomes(FaultyRetriever(BM25, rate=0.2, seed=1, delay=0.0), batches)
    assert seen != outcomes(FaultyRetriever(BM25, rate=0.2, seed=2, delay=0.0), batches)
    backwards = FaultyRetriever(BM25, rate=0.2, seed=1, delay=0.0)
    assert outcomes(backwards, batches[::-1])[::-1] == seen
    assert faulty.injected == backwards.injected
    assert set(faulty.injected) == set(RETRIEVER_FAULTS)
    assert 0.1 < faulty.injected.total() / 120 < 0.3


def test_what_each_fault_of_a_retriever_does() -> None:
    found = BM25.search(QUERIES, 2)

    def one(kind: str) -> Any:
        return outcomes(FaultyRetriever(BM25, rate=1.0, seed=0, kinds=[kind], delay=0.0), [QUERIES])[0]

    assert one("latency") == found
    assert one("empty") == [[]] * 5
    for kind in ("outage", "timeout", "error"):
        message, results = one(kind)
        assert f"injected {kind}" in message
        assert results is None
    half = FaultyRetriever(BM25, rate=0.5, seed=0, kinds=["error"])
    with pytest.raises(RetrievalError, match=r"injected error at \d of 5 queries") as caught:
        half.search(QUERIES, 2)
    assert caught.value.results is not None
    assert {r is None or r == f for r, f in zip(caught.value.results, found, strict=True)} == {True}
    assert caught.value.results.count(None) == half.injected["error"]
    assert half.fingerprint()["retriever"] == BM25.fingerprint()


@pytest.mark.parametrize("kind", TRANSPORT_FAULTS)
def test_each_fault_of_a_transport_is_survived(kind: str) -> None:
    transport = FaultyTransport(SearchR1Service(BM25), rate=0.5, seed=0, kinds=[kind], delay=0.0)
    with closing(remote(transport, attempts=20, batch_size=2)) as retriever:
        for i in range(6):
            queries = [f"{query} {i}" for query in QUERIES]
            assert retriever.search(queries, 3) == BM25.search(queries, 3)
        assert transport.injected[kind] >= 3
        assert retriever.stats.retries == (0 if kind == "latency" else transport.injected[kind])


@pytest.mark.parametrize("make", [FaultyRetriever, FaultyTransport])
@pytest.mark.parametrize("options", [{"rate": 1.5, "kinds": ["latency"]}, {"rate": 0.5, "kinds": ["x"]}])
def test_bad_schedules_are_named(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match=rf"rate={options['rate']}.*rate must be from 0 to 1, kinds some of"):
        make(BM25 if make is FaultyRetriever else SearchR1Service(BM25), seed=0, **options)
