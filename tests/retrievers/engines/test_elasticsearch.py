"""Searches through Elasticsearch: its answers are passages, or errors that say what is wrong."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from elasticsearch_server import SHARDS, TEXT, ElasticsearchServer
from services import free_port, serving
from starlette.responses import JSONResponse

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import (
    BM25Retriever,
    CorpusError,
    HybridRetriever,
    IndexMismatchError,
    Passage,
    QueryError,
    RetrievalError,
    open_retriever,
)
from retrievers.corpus import write_corpus
from retrievers.engines.elasticsearch import ElasticsearchRetriever
from retrievers.service.wire import index_mark

BM25 = BM25Retriever(CORPUS)
KEYWORD = {"keyword": {"type": "keyword", "searchable": True, "aggregatable": True}}


@pytest.fixture
def server() -> ElasticsearchServer:
    """An index of the corpus."""
    return ElasticsearchServer(CORPUS)


@pytest.fixture
def url(server: ElasticsearchServer) -> Iterator[str]:
    """Its address."""
    with serving(server.app) as address:
        yield address


@pytest.fixture
def retriever(url: str) -> Iterator[ElasticsearchRetriever]:
    """A retriever over it, which does not wait between attempts."""
    with closing(ElasticsearchRetriever(f"elasticsearch:{url}/wiki", backoff=0.0)) as opened:
        yield opened


@pytest.fixture(scope="module")
def always() -> Iterator[str]:
    """The address of an index that stays as it is."""
    with serving(ElasticsearchServer(CORPUS).app) as address:
        yield address


class TestElasticsearch(RetrieverContract):
    @pytest.fixture
    def retriever(self, always: str) -> Iterator[ElasticsearchRetriever]:
        with closing(ElasticsearchRetriever(f"elasticsearch:{always}/wiki", batch_size=2)) as opened:
            yield opened


class TestElasticsearchWithCorpus(RetrieverContract):
    @pytest.fixture
    def retriever(self, always: str) -> Iterator[ElasticsearchRetriever]:
        with closing(ElasticsearchRetriever(f"elasticsearch:{always}/wiki", passages=CORPUS)) as opened:
            yield opened


def test_what_is_sent(server: ElasticsearchServer, retriever: ElasticsearchRetriever) -> None:
    assert retriever.search(["river \ud800", " ", "Tagus"], 2) == BM25.search(["river", " ", "Tagus"], 2)
    assert server.searches == [
        {
            "query": {"multi_match": {"query": query, "fields": ["title", "text"]}},
            "size": 2,
            "_source": ["title", "text"],
            "track_total_hits": False,
        }
        for query in ("river \ufffd", "Tagus")
    ]
    assert {header["preference"] for header in server.headers} == {"igsearch"}


def test_random_passages_are_uniform(retriever: ElasticsearchRetriever) -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(passage.id for _ in range(200) for passage in retriever.sample(2, rng))
    assert min(drawn.values()) > 30 and max(drawn.values()) < 72  # of 50 expected; five deviations  # noqa: PT018


@pytest.mark.parametrize(
    ("options", "capabilities", "documents"),
    [
        ("", {"contents": TEXT}, {"contents": '"{title}"\n{text}'}),
        ("?contents=body", {"body": TEXT, "text": TEXT}, {"body": '"{title}"\n{text}', "text": "other"}),
        ("?text=body&title=name", {"body": TEXT, "name": TEXT, "text": TEXT}, {"body": "{text}", "name": "{title}"}),
        ("", {"title": TEXT, "text": TEXT, "year": KEYWORD}, {"title": "{title}", "text": "{text}", "year": "1999"}),
    ],
    ids=["contents", "contents by name", "two by name", "others are not read"],
)
def test_fields_of_a_passage(
    server: ElasticsearchServer, url: str, options: str, capabilities: dict[str, Any], documents: dict[str, str]
) -> None:
    server.capabilities = capabilities
    server.documents = {
        p.id: {name: form.format(title=p.title, text=p.text) for name, form in documents.items()} for p in CORPUS
    }
    with closing(ElasticsearchRetriever(f"elasticsearch:{url}/wiki{options}")) as opened:
        assert opened.search(QUERIES, 3) == BM25.search(QUERIES, 3)


def test_passages_without_titles(server: ElasticsearchServer, url: str) -> None:
    server.capabilities = {"text": TEXT}
    with closing(ElasticsearchRetriever(f"elasticsearch:{url}/wiki")) as opened:
        assert {passage.title for passage in opened.search(["river"], 3)[0]} == {""}
    server.capabilities = {"text": TEXT, "title": TEXT}
    server.documents["13"].pop("title")  # a field may be missing in a document
    with closing(ElasticsearchRetriever(f"elasticsearch:{url}/wiki")) as opened:
        assert opened.search(["river"], 1)[0][0].title == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nothing", "status 404.*no such index"),
        (
            "/wiki?text=body",
            r"fields \{'text': 'body'\} with documents that have \['text', 'title'\]; name fields that",
        ),
        ("/wiki?contents=text&title=title", "either contents .* or text and title"),
        ("/wiki?size=3", r"option 'size=3'; each of \['contents', 'text', 'title'\]"),
        ("/wiki?text=text&text=title", "option 'text=title'.* once"),
        ("", "names no index; write it as elasticsearch:http"),
    ],
)
def test_what_does_not_fit_is_named(url: str, source: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        ElasticsearchRetriever(f"elasticsearch:{url}{source}")


@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        ({"body": TEXT}, r"have the fields \['body'\], none of the name 'text' or 'contents'.*\?text=FIELD"),
        ({"text": KEYWORD}, r"field 'text' is of the type \['keyword'\].*map it so"),
        ({"text": {**TEXT, **KEYWORD}}, r"field 'text' is of the type \['keyword', 'text'\]"),
    ],
)
def test_fields_that_cannot_be_searched_are_named(
    server: ElasticsearchServer, url: str, capabilities: dict[str, Any], message: str
) -> None:
    server.capabilities = capabilities
    with pytest.raises(CorpusError, match=message):
        ElasticsearchRetriever(f"elasticsearch:{url}/wiki")


def test_several_or_no_documents_are_named(server: ElasticsearchServer, url: str) -> None:
    with pytest.raises(IndexMismatchError, match="8 documents with a corpus of 3 passages; index the corpus first"):
        ElasticsearchRetriever(f"elasticsearch:{url}/wiki", passages=CORPUS[:3])
    server.documents = {}
    with pytest.raises(IndexMismatchError, match="0 documents; index the corpus first"):
        ElasticsearchRetriever(f"elasticsearch:{url}/wiki")
    server.indexes = ["wiki-1", "wiki-2"]
    with pytest.raises(CorpusError, match=r"names the indexes \['wiki-1', 'wiki-2'\]; name one"):
        ElasticsearchRetriever(f"elasticsearch:{url}/wiki")


def item(**changed: Any) -> dict[str, Any]:
    """The answer to one search, with changes."""
    hits = [{"_index": "wiki", "_id": "13", "_score": 1.5, "_source": {"title": "Seine", "text": "A river."}}]
    return {"timed_out": False, "_shards": SHARDS, "hits": {"hits": hits}, "status": 200, **changed}


def hit(**changed: Any) -> dict[str, Any]:
    """The same with a change of its document."""
    answer = item()
    answer["hits"]["hits"][0] |= changed
    return answer


TRANSIENT = [
    (item(timed_out=True), "only a part of the index was searched"),
    (item(_shards={**SHARDS, "failed": 1}), "only a part of the index was searched.*failed"),
    ({"error": {"type": "es_rejected_execution_exception"}, "status": 429}, "status 429.*es_rejected"),
    ({"timed_out": False, "status": 200}, "a response without '_shards'"),
    (item(hits=None), "a response without"),
    (item(hits={"hits": [*item()["hits"]["hits"]] * 3}), "3 documents where at most 2 were requested"),
    (hit(_score=None), "score None"),
    (hit(_id=7), "id 7"),
    ("text", "a response without"),
]


@pytest.mark.parametrize(("answer", "message"), TRANSIENT)
def test_a_fault_is_overcome_or_named_and_never_evidence(
    server: ElasticsearchServer, retriever: ElasticsearchRetriever, answer: Any, message: str
) -> None:
    server.items = [answer]
    assert retriever.search(["river"], 2) == BM25.search(["river"], 2)
    server.items = [answer] * 3
    with pytest.raises(RetrievalError, match=message):
        retriever.search(["river"], 2)


def test_a_search_that_fails_leaves_the_others(server: ElasticsearchServer, retriever: ElasticsearchRetriever) -> None:
    error = {"type": "search_phase_execution_exception", "reason": "maxClauseCount is set to 1024"}
    server.items = [item(), {"error": error, "status": 400}]
    with pytest.raises(RetrievalError, match=r"1 of 3 queries failed.*status 400.*maxClauseCount") as caught:
        retriever.search(["river", "Paris " * 2000, "Tagus"], 2)
    seine = Passage("13", "Seine", "A river.", 1.5)
    assert caught.value.results == [[seine], None, BM25.search(["Tagus"], 2)[0]]


@pytest.mark.parametrize("source", [{}, {"title": "Seine"}, {"text": 3}, {"text": ["a", "b"]}], ids=str)
def test_a_document_that_is_no_passage_is_named(
    server: ElasticsearchServer, retriever: ElasticsearchRetriever, source: dict[str, Any]
) -> None:
    server.items = [hit(_source=source)]
    with pytest.raises(CorpusError, match=r"/wiki: the field 'text' of document '13' is .*needs a string"):
        retriever.search(["river"], 2)
    answer = hit()
    del answer["hits"]["hits"][0]["_source"]
    server.items = [answer]
    with pytest.raises(CorpusError, match="document '13' has no _source"):
        retriever.search(["river"], 2)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_an_overloaded_engine_is_asked_again(
    server: ElasticsearchServer, retriever: ElasticsearchRetriever, status: int
) -> None:
    server.faults = [JSONResponse({"error": "overloaded"}, status)]
    assert retriever.search(["river"], 2) == BM25.search(["river"], 2)
    server.faults = [JSONResponse({"error": "overloaded"}, status)] * 3
    with pytest.raises(RetrievalError, match=f"search engine failed .*status {status}"):
        retriever.search(["river"], 2)


def test_no_engine_is_a_failure_that_may_pass() -> None:
    with pytest.raises(RetrievalError, match=r"search engine failed.*ConnectError"):
        ElasticsearchRetriever(f"elasticsearch:http://127.0.0.1:{free_port()}/wiki", backoff=0.0)


def test_a_sample_of_too_few_is_no_sample(server: ElasticsearchServer, retriever: ElasticsearchRetriever) -> None:
    server.items = [item()]
    with pytest.raises(RetrievalError, match=r"1 random documents where 2 were requested of 8"):
        retriever.sample(2, np.random.default_rng(0))


def test_more_than_the_engine_returns_is_refused(
    retriever: ElasticsearchRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrievers.engines.elasticsearch.MAX_RESULTS", 5)
    with pytest.raises(QueryError, match="k=6: the engine returns at most 5 documents"):
        retriever.search(["river"], 6)
    with pytest.raises(QueryError, match="n=6: at most 5 random passages at once"):
        retriever.sample(6, np.random.default_rng(0))


def test_the_fingerprint_changes_with_the_index(server: ElasticsearchServer, url: str) -> None:
    def fingerprint() -> dict[str, Any]:
        with closing(ElasticsearchRetriever(f"elasticsearch:{url}/wiki")) as opened:
            return opened.fingerprint()

    first = fingerprint()
    assert first == {
        "engine": "elasticsearch",
        "index": "wiki",
        "uuid": server.uuid,
        "writes": 8,
        "similarity": {},
        "fields": ["title", "text"],
        "passages": 8,
    }
    server.documents["18"] = {"title": "a", "text": "b"}
    second = fingerprint()
    server.uuid = "another"
    assert len({index_mark(f) for f in (first, second, fingerprint())}) == 3


def test_statistics_that_may_not_be_read_are_left_out(
    server: ElasticsearchServer, retriever: ElasticsearchRetriever
) -> None:
    server.faults = [JSONResponse({"error": {"type": "security_exception"}, "status": 403}, 403)]
    assert retriever.fingerprint()["writes"] is None
    server.faults = [JSONResponse({"indices": {"wiki": {}}})]
    with pytest.raises(RetrievalError, match="not the settings or statistics"):
        retriever.fingerprint()


def test_credentials_are_sent_and_shown_nowhere(server: ElasticsearchServer, url: str) -> None:
    server.authorization = f"Basic {base64.b64encode(b'user:s3cret').decode()}"
    host = url.removeprefix("http://")
    with closing(ElasticsearchRetriever(f"elasticsearch:http://user:s3cret@{host}/wiki")) as opened:
        assert opened.search(["river"], 2) == BM25.search(["river"], 2)
        assert "s3cret" not in f"{opened.fingerprint()} {vars(opened)}"
    with pytest.raises(CorpusError, match="status 401") as caught:
        ElasticsearchRetriever(f"elasticsearch:http://user:s3cret-wrong@{host}/wiki")
    assert "s3cret" not in str(caught.value)


def test_it_is_opened_by_name(always: str, tmp_path: Any) -> None:
    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    source, file = f"elasticsearch:{always}/wiki", str(tmp_path / "corpus.jsonl")
    for corpus, name in ((source, "auto"), (source, source), (file, source)):
        with closing(open_retriever(corpus, name)) as opened:
            assert isinstance(opened, ElasticsearchRetriever)
            assert opened.search(QUERIES, 3) == BM25.search(QUERIES, 3)
    with closing(open_retriever(file, f"bm25+{source}")) as opened:
        assert isinstance(opened, HybridRetriever)
        assert opened.search(["river"], 1)[0][0].title == "Seine"
    with pytest.raises(CorpusError, match=r"solr:http://a/b: no such file.*an engine \(elasticsearch:"):
        open_retriever(file, "solr:http://a/b")
