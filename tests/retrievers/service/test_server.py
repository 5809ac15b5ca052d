"""The retrieval service: Search-R1's clients find what they expect, and nothing that they send brings it down."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from services import process, serving

from igsearch.testing.retriever_contract import CORPUS, QUERIES
from retrievers import BM25Retriever, Passage, QueryError, RemoteRetriever, RetrievalError, Retriever
from retrievers.base import MAX_QUERY_CHARS
from retrievers.corpus import write_corpus
from retrievers.service.endpoints import make_app
from retrievers.service.limits import Limits

BM25 = BM25Retriever(CORPUS)
APP = make_app(BM25)
HEAD = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
JSON_TYPE = {"content-type": "application/json"}


class GatedRetriever(Retriever):
    """BM25 that notes what it is asked, and whose searches wait for the gate to open."""

    def __init__(self, *, opened: bool = False) -> None:
        self.gate = threading.Event()
        self.searches: list[tuple[list[str], int]] = []
        self.spoil: Callable[[Sequence[str]], None] = lambda queries: None
        if opened:
            self.gate.set()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.searches.append((list(queries), k))
        assert self.gate.wait(30)
        self.spoil(queries)
        return BM25.search(queries, k)

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        return BM25.sample(n, rng)

    def __len__(self) -> int:
        return len(BM25)


def talk(app: FastAPI, conversation: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run a conversation with an application, without a network."""

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            await conversation(client)

    asyncio.run(run())


def post(app: FastAPI, path: str = "/retrieve", **request: Any) -> httpx.Response:
    """The answer to one request."""
    answers: list[httpx.Response] = []

    async def once(client: httpx.AsyncClient) -> None:
        answers.append(await client.post(path, **{"headers": JSON_TYPE, **request}))

    talk(app, once)
    return answers[0]


async def until_waiting(client: httpx.AsyncClient, queries: int) -> None:
    """Until so many queries are not answered yet."""
    while f"retriever_waiting_queries {float(queries)}" not in (await client.get("/metrics")).text:
        await asyncio.sleep(0.01)


def documents(query: str, k: int) -> list[dict[str, str]]:
    """What is found, as the service writes it."""
    return [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in BM25.search([query], k)[0]]


# ---------------------------------------------------------------- the format


def test_search_r1s_request() -> None:
    content = b'{"queries": ["capital of France", "river"], "topk": 2, "return_scores": true}'
    answer = post(APP, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    (first, *_), river = answer.json()["result"]
    found = BM25.search(["capital of France"], 1)[0][0]
    assert first == {
        "document": {
            "id": "11",
            "contents": '"Paris"\nParis is the capital and largest city of France, on the Seine.',
        },
        "score": found.score,
    }
    assert [item["document"]["id"] for item in river] == ["13"]


def test_without_scores_documents_are_bare() -> None:
    answer = post(APP, json={"queries": ["capital"], "topk": 2})
    assert answer.json() == {"result": [documents("capital", 2)]}


def test_verl_agents_request() -> None:
    answer = post(APP, json={"query": "capital", "topk": 3, "return_scores": False})
    assert answer.json() == {"result": [documents("capital", 3)]}


@pytest.mark.parametrize("extra", [{}, {"topk": None}])
def test_topk_has_a_default(extra: dict[str, Any]) -> None:
    assert len(post(APP, json={"queries": ["capital is the of"], **extra}).json()["result"][0]) == 3
    small = make_app(BM25Retriever(CORPUS[:2]))
    assert post(small, json={"queries": ["capital"], **extra}).status_code == 200


def test_blank_queries_find_nothing() -> None:
    retriever = GatedRetriever(opened=True)
    answer = post(make_app(retriever), json={"queries": ["", "river", " \n"], "topk": 1})
    assert answer.json() == {"result": [[], documents("river", 1), []]}
    assert retriever.searches == [(["river"], 1)]
    assert post(make_app(retriever), json={"queries": []}).json() == {"result": []}


def test_health_and_sample() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        health = (await client.get("/health")).json()
        assert health == {"status": "ok", "passages": len(CORPUS), "fingerprint": BM25.fingerprint()}
        drawn = (await client.post("/sample", json={"n": 3, "seed": 7})).json()["result"]
        assert [d["id"] for d in drawn] == [p.id for p in BM25.sample(3, np.random.default_rng(7))]
        assert drawn[0] == documents(CORPUS[[p.id for p in CORPUS].index(drawn[0]["id"])].text, 1)[0]

    talk(APP, conversation)


def test_metrics_count() -> None:
    app = make_app(BM25)

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.post("/retrieve", json={"queries": ["river", "capital"]})
        await client.post("/retrieve", json={"queries": 3})
        text = (await client.get("/metrics")).text
        assert 'retriever_requests_total{path="/retrieve",status="200"} 1.0' in text
        assert 'retriever_requests_total{path="/retrieve",status="422"} 1.0' in text
        assert "retriever_queries_total 2.0" in text
        assert 'retriever_batch_queries_bucket{le="2.0"} 1.0' in text
        assert 'retriever_request_seconds_count{path="/retrieve"} 2.0' in text
        assert "retriever_waiting_queries 0.0" in text

    talk(app, conversation)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/retrieve", b"{", 400, r"the body is not JSON in UTF-8 \(.*\); send a JSON object"),
        ("/retrieve", b"", 400, r"not JSON"),
        ("/retrieve", '{"queries": ["\xe9"]}'.encode("latin-1"), 400, r"not JSON in UTF-8 \('utf-8' codec"),
        ("/retrieve", b"[" * 100_000, 400, r"not JSON"),
        ("/retrieve", b'{"topk": ' + b"9" * 5_000 + b"}", 400, r"not JSON"),
        ("/retrieve", [1, 2], 422, r"the body is \[1, 2\]; it must be a JSON object"),
        ("/retrieve", {"question": "q"}, 422, r"the fields are \['question'\]: pass `queries`, a list of strings"),
        ("/retrieve", {"queries": "river"}, 422, r"queries is 'river': it must be a list of strings, even for one"),
        ("/retrieve", {"queries": None}, 422, r"queries is None"),
        ("/retrieve", {"queries": ["river", 7]}, 422, r"query 1 is 7: it must be a string"),
        ("/retrieve", {"query": ["river"]}, 422, r"query 0 is \['river'\]: it must be a string"),
        ("/retrieve", {"queries": ["q"] * 32_769, "topk": 2}, 413, r"65538 passages: at most 65536 .*--max-results"),
        ("/retrieve", {"query": "q" * (MAX_QUERY_CHARS + 1)}, 422, r"65537 characters: at most 65536; shorten 'qq"),
        ("/retrieve", b'{"query": "\\ud800"}', 422, r"query 0 contains half of a surrogate pair.*correct '.ud800'"),
        ("/retrieve", {"query": "q", "topk": 0}, 422, r"topk is 0: it must be an integer from 1 to 8 \(8 passages\)"),
        ("/retrieve", {"query": "q", "topk": 9}, 422, r"topk is 9: .*1 to 8"),
        ("/retrieve", {"query": "q", "topk": 2.0}, 422, r"topk is 2.0"),
        ("/retrieve", {"query": "q", "topk": True}, 422, r"topk is True"),
        ("/retrieve", {"query": "q", "return_scores": "yes"}, 422, r"return_scores is 'yes': it must be true or"),
        ("/sample", {"seed": 1}, 422, r"n is None: it must be an integer from 1 to 8"),
        ("/sample", {"n": 9, "seed": 1}, 422, r"n is 9: .*1 to 8"),
        ("/sample", {"n": 1, "seed": -1}, 422, r"seed is -1: it must be an integer from 0 to"),
        ("/sample", {"n": 1}, 422, r"seed is None"),
        ("/search", {"query": "q"}, 404, r"Not Found"),
    ],
)
def test_a_refusal_names_value_rule_and_repair(path: str, body: Any, status: int, detail: str) -> None:
    answer = post(APP, path, **({"content": body} if isinstance(body, bytes) else {"json": body}))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert re.search(detail, answer.json()["detail"])


def test_passages_per_request_have_a_limit() -> None:
    app = make_app(BM25, Limits(max_results=20, max_k=8))
    assert post(app, json={"queries": ["river"] * 5, "topk": 4}).status_code == 200
    refused = post(app, json={"queries": ["river"] * 5, "topk": 5})
    assert refused.status_code == 413
    assert refused.json()["detail"] == (
        "5 queries with topk 5 are 25 passages: at most 20 per request (--max-results); split the queries, "
        "4 a request, or lower topk"
    )


def test_a_response_has_a_limit_of_bytes() -> None:
    found = json.dumps({"result": [documents("river", 2)] * 3})
    queries = ["river"] * 3
    for path, body in (("/retrieve", {"queries": queries, "topk": 2}), ("/sample", {"n": 3, "seed": 0})):
        app = make_app(BM25, Limits(max_response_bytes=2 * len(found)))
        assert post(app, path, json=body).status_code == 200
        refused = post(make_app(BM25, Limits(max_response_bytes=200)), path, json=body)
        assert refused.status_code == 413
        assert refused.json()["detail"] == (
            "the response has more than 200 bytes, the maximum (--max-response-bytes): split the request, or lower topk"
        )


def test_no_more_is_searched_for_a_response_that_is_too_large() -> None:
    retriever = GatedRetriever(opened=True)
    limits = Limits(max_response_bytes=600, max_batch=2)
    queries = [f"river {i}" for i in range(20)]
    assert post(make_app(retriever, limits), json={"queries": queries, "topk": 1}).status_code == 413
    assert 2 <= len(retriever.searches) <= 5


# ---------------------------------------------------------------- requests that a page of another site could send


@pytest.mark.parametrize("kind", [None, "", "text/plain", "text/plain; application/json", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/retrieve", "/sample"])
def test_a_body_that_is_not_declared_as_json_is_refused(kind: str | None, path: str) -> None:
    headers = {} if kind is None else {"content-type": kind}
    refused = post(APP, path, content=b'{"query": "river", "n": 1, "seed": 1}', headers=headers)
    assert refused.status_code == 415
    assert re.search(r"Content-Type is '.*': it must be application/json; send", refused.json()["detail"])


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_declared_with_parameters(kind: str) -> None:
    assert post(APP, content=b'{"query": "river"}', headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "localhost@evil",
        "",
        "[::1",
        "0x7f.1",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/metrics", "/retrieve"])
def test_an_unknown_host_is_refused(host: str, path: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"query": "river"} if path == "/retrieve" else None
        answer = await client.request("POST" if body else "GET", path, json=body, headers={"host": host})
        assert answer.status_code == 403
        assert f"Host is {host!r}: it must be an IP address, or one of " in answer.json()["detail"]
        assert "--allowed-hosts" in answer.json()["detail"]

    talk(APP, conversation)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "10.0.0.7", socket.gethostname()]
)
def test_known_hosts_are_answered(host: str) -> None:
    assert post(APP, json={"query": "river"}, headers={"host": host}).status_code == 200


def test_further_hosts_can_be_named() -> None:
    app = make_app(BM25, hosts=["search.internal"])
    assert post(app, json={"query": "river"}, headers={"host": "Search.internal:8000"}).status_code == 200


def test_no_other_site_gets_leave_and_nothing_redirects() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        preflight = await client.options("/retrieve", headers=asked)
        assert preflight.status_code == 405
        answers = [preflight, await client.post("/retrieve", json={"query": "river"}, headers=asked)]
        assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]
        slashed = await client.post("/retrieve/", json={"query": "river"})
        assert (slashed.status_code, slashed.headers.get("location")) == (404, None)

    talk(APP, conversation)


def test_get_is_not_for_searches() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        assert (await client.get("/retrieve")).status_code == 405

    talk(APP, conversation)


def test_large_bodies_are_refused_over_a_network() -> None:
    limits = Limits(max_body_bytes=100_000)

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 10_000

    with serving(make_app(BM25, limits)) as url, httpx.Client(trust_env=False) as client:
        for content in (b" " * 100_001, b" " * 399_999, chunks()):
            answer = client.post(f"{url}/retrieve", content=content, headers=JSON_TYPE)
            assert answer.status_code == 413
            assert answer.json()["detail"] == (
                "the body has more than 100000 bytes, the maximum (--max-body-bytes): split the request"
            )
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as endless:
            endless.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            with pytest.raises(OSError, match=r"reset|Broken pipe"):  # noqa: PT012
                for _ in range(1000):
                    endless.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        assert client.post(f"{url}/retrieve", json={"query": "river"}).status_code == 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_k": 0}, "max_k=0: must be at least 1"),
        ({"default_k": 9, "max_k": 4}, "default_k=9 is above max_k=4"),
        ({"max_k": 9, "max_results": 8}, "max_k=9 is above max_results=8"),
    ],
)
def test_bad_limits_are_named(values: dict[str, int], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Limits(**values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "queries": st.lists(st.text() | JSON, max_size=3) | JSON,
        "query": st.text() | JSON,
        "topk": st.integers(0, 9) | JSON,
        "return_scores": st.booleans() | JSON,
        "n": st.integers(0, 9) | JSON,
        "seed": st.integers(0) | JSON,
    },
)


@given(st.sampled_from(["/retrieve", "/sample"]), st.binary() | (BODY | JSON).map(json.dumps).map(str.encode))
def test_any_body_is_answered_or_refused(path: str, body: bytes) -> None:
    answer = post(APP, path, content=body)
    assert answer.status_code in (200, 400, 422)
    assert set(answer.json()) == {"result" if answer.status_code == 200 else "detail"}


# ---------------------------------------------------------------- many at once


def test_what_arrives_during_a_search_is_searched_together() -> None:
    retriever = GatedRetriever()

    async def conversation(client: httpx.AsyncClient) -> None:
        async def ask(i: int) -> httpx.Response:
            return await client.post("/retrieve", json={"queries": [QUERIES[i % 5], f"Paris {i}"], "topk": 1 + i % 4})

        first = asyncio.create_task(ask(0))
        await until_waiting(client, 2)
        others = [asyncio.create_task(ask(i)) for i in range(1, 21)]
        await until_waiting(client, 42)
        refused = await client.post("/retrieve", json={"queries": [3]})
        assert refused.status_code == 422
        retriever.gate.set()
        for i, answer in enumerate(await asyncio.gather(first, *others)):
            expected = [documents(query, 1 + i % 4) for query in (QUERIES[i % 5], f"Paris {i}")]
            assert answer.json() == {"result": expected}

    talk(make_app(retriever), conversation)
    (_, k), (together, largest) = retriever.searches
    assert (k, largest) == (1, 4)
    assert len(together) == 25  # each once: five queries stood in several requests


def test_batches_have_a_limit() -> None:
    retriever = GatedRetriever(opened=True)
    queries = [f"Paris {i}" for i in range(10)]
    answer = post(make_app(retriever, Limits(max_batch=4)), json={"queries": queries, "topk": 2})
    assert answer.json() == {"result": [documents(query, 2) for query in queries]}
    assert [len(asked) for asked, _ in retriever.searches] == [4, 4, 2]


def test_too_many_waiting_are_sent_away() -> None:
    retriever = GatedRetriever()

    async def conversation(client: httpx.AsyncClient) -> None:
        queries = [f"river {i}" for i in range(9)]
        large = asyncio.create_task(client.post("/retrieve", json={"queries": queries, "topk": 1}))
        await until_waiting(client, 9)  # alone, it is taken whatever the limit
        refused = await client.post("/retrieve", json={"queries": ["river"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["detail"] == "9 queries are waiting, at most 5 may with yours: retry in a second"
        retriever.gate.set()
        assert (await large).status_code == 200
        assert (await client.post("/retrieve", json={"queries": ["river"]})).status_code == 200

    talk(make_app(retriever, Limits(max_waiting=5)), conversation)


SEARCH_R1_BATCH = 2560  # 512 questions, five rollouts each


def search_r1_batch(queries: list[str], url: str) -> list[str]:
    """The texts of a batch as Search-R1's client gets them: `batch_search` of its `LLMGenerationManager`."""
    payload = {"queries": queries, "topk": 3, "return_scores": True}
    answer = httpx.post(
        url,
        content=json.dumps(payload),
        headers={**JSON_TYPE, "user-agent": "python-requests/2.32.3"},
        timeout=None,
        trust_env=False,
    )
    texts = []
    for result in answer.json()["result"]:
        text = ""
        for place, item in enumerate(result):
            assert isinstance(item["score"], float)
            content = item["document"]["contents"]
            title = content.split("\n")[0]
            text += f"Doc {place + 1}(Title: {title}) " + "\n".join(content.split("\n")[1:]) + "\n"
        texts.append(text)
    return texts


def search_r1_text(query: str) -> str:
    """What Search-R1 shows its policy for a query."""
    found = BM25.search([query], 3)[0]
    return "".join(f'Doc {i}(Title: "{p.title}") {p.text}\n' for i, p in enumerate(found, start=1))


@pytest.mark.parametrize("distinct", [512, SEARCH_R1_BATCH])
def test_a_whole_batch_of_search_r1_is_one_request(distinct: int) -> None:
    retriever = GatedRetriever(opened=True)
    queries = [f"{QUERIES[i % distinct % 5]} \u00e9 {i % distinct}" for i in range(SEARCH_R1_BATCH)]
    with serving(make_app(retriever)) as url, ThreadPoolExecutor(2) as pool:
        batches = [pool.submit(search_r1_batch, queries, f"{url}/retrieve") for _ in range(2)]
        expected = [search_r1_text(query) for query in queries[:distinct]] * (SEARCH_R1_BATCH // distinct)
        assert [batch.result() for batch in batches] == [expected, expected]
    assert max(len(asked) for asked, _ in retriever.searches) <= Limits().max_batch


def test_other_requests_are_searched_between_the_parts_of_a_large_one() -> None:
    retriever = GatedRetriever()
    limits = Limits(max_batch=4, max_waiting=16)

    async def conversation(client: httpx.AsyncClient) -> None:
        async def ask(name: str, queries: int) -> httpx.Response:
            return await client.post("/retrieve", json={"queries": [f"{name} {i}" for i in range(queries)], "topk": 1})

        tasks = [asyncio.create_task(ask("river", 20))]
        await until_waiting(client, 4)
        tasks.append(asyncio.create_task(ask("Paris", 12)))
        await until_waiting(client, 8)
        tasks.append(asyncio.create_task(ask("Tagus", 2)))
        await until_waiting(client, 10)
        retriever.gate.set()
        for answer, queries in zip(await asyncio.gather(*tasks), (20, 12, 2), strict=True):
            assert [len(found) for found in answer.json()["result"]] == [1] * queries

    talk(make_app(retriever, limits), conversation)
    order = [asked[0].split()[0] for asked, _ in retriever.searches]
    assert order[:3] == ["river", "Paris", "Tagus"]  # the small request waits for a part of each large one
    assert order[3:] == ["river", "Paris", "river", "Paris", "river", "river"]


def test_a_large_request_does_not_keep_others_away() -> None:
    retriever = GatedRetriever()

    async def conversation(client: httpx.AsyncClient) -> None:
        large = {"queries": [f"river {i}" for i in range(50)], "topk": 1}
        tasks = [asyncio.create_task(client.post("/retrieve", json=large)) for _ in range(2)]
        await until_waiting(client, 4)
        tasks.append(asyncio.create_task(client.post("/retrieve", json={"query": "river"})))
        await until_waiting(client, 5)
        refused = await client.post("/retrieve", json={"query": "river"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        retriever.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3

    talk(make_app(retriever, Limits(max_batch=2, max_waiting=5)), conversation)


def spoilt(*, by: Exception, at: str = "") -> Callable[[Sequence[str]], None]:
    """What raises an error if `at` stands in one of the queries."""

    def spoil(queries: Sequence[str]) -> None:
        if any(at in query for query in queries):
            raise by

    return spoil


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (RetrievalError("the index is gone"), 503, "the index is gone"),
        (ZeroDivisionError("by zero"), 500, "ZeroDivisionError: by zero"),
        (StopIteration(), 500, "StopIteration: "),
    ],
)
def test_errors_of_the_engine_are_answered_and_survived(error: Exception, status: int, detail: str) -> None:
    retriever = GatedRetriever(opened=True)
    retriever.spoil = spoilt(by=error, at="poison")

    async def conversation(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            answer = await client.post("/retrieve", json={"query": "poison"})
            assert (answer.status_code, answer.json()) == (status, {"detail": detail})
        assert (await client.post("/retrieve", json={"query": "river"})).json() == {"result": [documents("river", 3)]}

    talk(make_app(retriever), conversation)


def test_one_request_that_breaks_the_engine_does_not_fail_its_neighbours() -> None:
    retriever = GatedRetriever()
    retriever.spoil = spoilt(by=ZeroDivisionError("by zero"), at="poison")

    async def conversation(client: httpx.AsyncClient) -> None:
        queries = ["first", "river", "poison", "capital"]
        asked = []
        for i, query in enumerate(queries, start=1):
            asked.append(asyncio.create_task(client.post("/retrieve", json={"query": query})))
            await until_waiting(client, i)
        retriever.gate.set()
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
        assert answers[3].json() == {"result": [documents("capital", 3)]}

    talk(make_app(retriever), conversation)


def test_what_was_found_before_a_failure_in_part_is_given() -> None:
    class Halfway(GatedRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            found = super().search(queries, k)
            if "lost" not in queries:
                return found
            raise RetrievalError(
                "lost", [None if query == "lost" else f for query, f in zip(queries, found, strict=True)]
            )

    retriever = Halfway()

    async def conversation(client: httpx.AsyncClient) -> None:
        asked = []
        for i, query in enumerate(["first", "river", "lost"], start=1):
            asked.append(asyncio.create_task(client.post("/retrieve", json={"query": query})))
            await until_waiting(client, i)
        retriever.gate.set()
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert answers[1].json() == {"result": [documents("river", 3)]}

    talk(make_app(retriever), conversation)
    assert len(retriever.searches) == 2


def test_a_client_that_hangs_up_ends_its_large_request() -> None:
    retriever = GatedRetriever()
    body = json.dumps({"queries": [f"river {i}" for i in range(9)]}).encode()
    with serving(make_app(retriever, Limits(max_batch=3))) as url, httpx.Client(trust_env=False, timeout=30) as client:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            while "retriever_waiting_queries 3.0" not in client.get(f"{url}/metrics").text:
                pass
        while "retriever_waiting_queries 0.0" not in client.get(f"{url}/metrics").text:
            pass
        retriever.gate.set()
        assert client.post(f"{url}/retrieve", json={"query": "river"}).status_code == 200
    assert [len(asked) for asked, _ in retriever.searches] == [3, 1]


def test_a_client_that_hangs_up_takes_its_queries_with_it() -> None:
    retriever = GatedRetriever()
    body = b'{"query": "nobody waits for this"}'
    request = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    def waiting(client: httpx.Client, url: str, queries: int) -> None:
        while f"retriever_waiting_queries {float(queries)}" not in client.get(f"{url}/metrics").text:
            pass

    with (
        serving(make_app(retriever)) as url,
        httpx.Client(trust_env=False, timeout=30) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, f"{url}/retrieve", json={"query": "river"})
        waiting(client, url, 1)
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(request)
            waiting(client, url, 2)
        waiting(client, url, 1)
        retriever.gate.set()
        assert first.result().status_code == 200
        assert 'status="499"} 1.0' in client.get(f"{url}/metrics").text
    assert [queries for queries, _ in retriever.searches] == [["river"]]


# ---------------------------------------------------------------- as a process


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus file."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write_corpus(CORPUS, path)
    return str(path)


def test_the_command_serves_and_refuses_a_port_in_use(corpus: str) -> None:
    command = ["-m", "retrievers.server", "--corpus", corpus, "--retriever", "bm25", "--port"]
    with process(*command, "0") as (service, url):
        with closing(RemoteRetriever(url)) as retriever:
            assert retriever.search(QUERIES, 3) == BM25.search(QUERIES, 3)
        port = url.rpartition(":")[2]
        second = subprocess.run([sys.executable, *command, port], capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        expected = rf"error: can't listen on host '127.0.0.1', port {port} \(.*\): use another --port or --host\n"
        assert re.fullmatch(expected, second.stderr)
        service.send_signal(signal.SIGINT)
        assert service.wait(30) == 0
        assert service.stderr is not None
        assert service.stderr.read() == f"{corpus}: JSON lines with id, contents\n"


SLOW_SERVICE = """
import sys, time
from retrievers import server
class Slow(type(server.open_retriever(sys.argv[2]))):
    def search(self, queries, k):
        time.sleep(1.0)
        return super().search(queries, k)
    def close(self):
        print("closed", flush=True)
opened = server.open_retriever
def open_slowly(*arguments):
    retriever = opened(*arguments)
    retriever.__class__ = Slow
    return retriever
server.open_retriever = open_slowly
server.command()
"""


def test_sigterm_lets_what_is_under_way_finish(corpus: str) -> None:
    with process("-c", SLOW_SERVICE, "--corpus", corpus, "--port", "0") as (service, url):
        with closing(RemoteRetriever(url, batch_size=1, attempts=1)) as retriever, ThreadPoolExecutor(1) as pool:
            assert len(retriever) == len(CORPUS)
            search = pool.submit(retriever.search, QUERIES[:3], 3)
            with httpx.Client(trust_env=False) as client:
                while "retriever_waiting_queries 3.0" not in client.get(f"{url}/metrics").text and not search.done():
                    pass
            service.send_signal(signal.SIGTERM)
            assert search.result(30) == BM25.search(QUERIES[:3], 3)
        assert service.wait(30) == 0
        assert service.stdout is not None
        assert service.stdout.read() == "closed\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "nothing.jsonl"], "error: nothing.jsonl: no such file"),
        (["--corpus", "c.jsonl", "--port", "70000"], "error: port=70000: must be from 0 to 65535"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from retrievers import server

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["server", "--port", "0", *arguments])
    with pytest.raises(SystemExit, match=r"^2$"):
        server.command()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
