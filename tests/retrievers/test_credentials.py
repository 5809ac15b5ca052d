"""Credentials in addresses are used, and are nowhere to be read."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from services import SearchR1Service, free_port

from igsearch.testing.retriever_contract import CORPUS
from igsearch_env.errors import ConfigurationError
from retrievers import BM25Retriever, HybridRetriever, QueryError, RemoteRetriever, RetrievalError, open_retriever
from retrievers.credentials import MaskedRepr, mask, masked, split, without_credentials
from retrievers.server import Args
from retrievers.service.address import VARIABLE, split_address

BM25 = BM25Retriever(CORPUS)
SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:s3cret@host:8000/retrieve", "http://***@host:8000/retrieve"),
        ("at https://s3cret@host, or", "at https://***@host, or"),
        ("http://u:s3cret@a:1,http://v:s3cret@b:2", "http://***@a:1,http://***@b:2"),
        ("bm25+http://u:s3c+ret@a", "bm25+http://***@a"),
        ("http://u:s3/cr?et#@a", "http://***@a"),
        ("http://u:s3@cret@a", "http://***@a"),
        ("['http://u:s3cret@a', 'http://b']", "['http://***@a', 'http://b']"),
        ("http://a/x?api_key=s3cret&k=3&Token=s3cret", "http://a/x?api_key=***&k=3&Token=***"),
        ("http://a:8000/retrieve", "http://a:8000/retrieve"),
        ("mail to me@example.org about http://a", "mail to me@example.org about http://a"),
        ("key=3, topk=4", "key=3, topk=4"),
    ],
)
def test_what_is_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert mask(shown) == shown
    assert masked({"a": [text, (text, 3)], "b": None}) == {"a": [shown, (shown, 3)], "b": None}


def test_addresses_compare_without_their_credentials() -> None:
    forms = ["http://u:s3cret@a:1", "http://v:other@a:1", "http://***@a:1", "http://a:1"]
    assert {without_credentials(form) for form in forms} == {"http://a:1"}
    assert without_credentials("http://a:2") != "http://a:1"


def test_lists_are_split_outside_of_credentials() -> None:
    assert split("http://u:a,b@x,http://y", ",") == ["http://u:a,b@x", "http://y"]
    assert split("bm25+http://u:a+b@x+indexes/e5", "+") == ["bm25", "http://u:a+b@x", "indexes/e5"]
    assert split("", ",") == [""]


def test_credentials_are_sent_and_nothing_else_has_them(caplog: pytest.LogCaptureFixture) -> None:
    service, seen = SearchR1Service(BM25), []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((str(request.url), request.headers["authorization"]))
        return service.answer(request)

    transport = httpx.MockTransport(answer)
    with (
        caplog.at_level(logging.DEBUG),
        closing(RemoteRetriever(f"http://user:{SECRET}@a/retrieve", passages=CORPUS, transport=transport)) as retriever,
    ):
        assert retriever.search(["river"], 2) == BM25.search(["river"], 2)
        assert SECRET not in f"{retriever.fingerprint()} {retriever!r} {vars(retriever)}"
    with closing(RemoteRetriever("http://a", passages=CORPUS, transport=transport)) as plain:
        assert retriever._replicas.urls == plain._replicas.urls
    expected = base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert seen[0] == ("http://a/retrieve", f"Basic {expected}")
    assert {header for _, header in seen} == {f"Basic {expected}"}
    assert SECRET not in caplog.text


def failures(address: str) -> list[Any]:
    """Calls that fail, each with an address."""

    def search(handler: Any) -> None:
        transport = None if handler is None else httpx.MockTransport(handler)
        with closing(RemoteRetriever(address, transport=transport, attempts=1, passages=CORPUS)) as retriever:
            retriever.search(["river"], 2)

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no way to {address}")

    return [
        lambda: search(None),
        lambda: search(broken),
        lambda: search(lambda request: httpx.Response(401, text=f"bad login at {request.url}")),
        lambda: search(lambda request: httpx.Response(500, text=f"error at {address}")),
        lambda: len(RemoteRetriever(address, transport=httpx.MockTransport(lambda request: httpx.Response(404)))),
    ]


@pytest.mark.parametrize("place", range(5))
def test_errors_name_the_address_without_its_credentials(place: int) -> None:
    with pytest.raises((QueryError, RetrievalError)) as caught:
        failures(f"http://user:{SECRET}@127.0.0.1:{free_port()}")[place]()
    trace = "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert "http://127.0.0.1:" in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value.args}"
    if place in (0, 2, 4):  # the others repeat what a transport of the test says
        assert SECRET not in trace


@pytest.mark.parametrize(
    "address",
    [
        "http://user:s3cret@host:port",
        "http://user:s3cret/1@host",
        "http://user:s3cret@",
        "ftp://user:s3cret@host",
        "user:s3cret@host:8000",
        "http://host?token=s3cret",
        "http://user:s3cret@host#x",
        "http://user:s3cret@[::1:host",
    ],
)
def test_what_is_no_address_shows_no_secret(address: str) -> None:
    for call in (split_address, RemoteRetriever):
        with pytest.raises(ValueError, match="host") as caught:
            call(address)
        assert SECRET not in "".join(traceback.format_exception(caught.value.with_traceback(None)))


def test_masked_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"'http://\*\*\*@a:1': its credentials are masked.*set IGSEARCH_CREDENTIALS="):
        split_address("http://***@a:1")
    monkeypatch.setenv(VARIABLE, "user:a:b")
    address, auth = split_address("http://***@a:1")
    assert address == "http://a:1"
    assert isinstance(auth, httpx.BasicAuth)
    request = next(auth.auth_flow(httpx.Request("GET", address)))
    assert request.headers["authorization"] == f"Basic {base64.b64encode(b'user:a:b').decode()}"


def test_sources_that_are_fused_may_have_credentials(tmp_path: Any) -> None:
    from retrievers.corpus import write_corpus

    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    address = f"http://user:{SECRET}+@127.0.0.1:{free_port()}"
    with closing(open_retriever(str(tmp_path / "corpus.jsonl"), f"bm25+{address}")) as retriever:
        assert isinstance(retriever, HybridRetriever)
    with pytest.raises(ValueError, match="no such file") as caught:
        open_retriever(str(tmp_path / "corpus.jsonl"), f"nothing://user:{SECRET}@host")
    assert SECRET not in str(caught.value)


def test_representations_and_messages_are_masked() -> None:
    @dataclass
    class Options(MaskedRepr):
        url: str
        n: int = 3

    address = f"http://user:{SECRET}@host"
    assert repr(Options(address)).endswith("Options(url='http://***@host', n=3)")
    assert SECRET not in repr(Args(corpus=address))
    error = ConfigurationError(f"corpus={address!r} is wrong")
    assert str(error) == "corpus='http://***@host' is wrong"
    assert SECRET not in json.dumps([repr(error), *map(str, error.args)])
