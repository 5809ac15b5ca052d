"""Searches through Qdrant: its real local mode, and its server's form over HTTP."""

from __future__ import annotations

import base64
import gc
import pickle
import re
import sqlite3
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedding_server import EmbeddingServer
from encoders import WordEncoder
from qdrant_server import QdrantServer
from services import free_port, serving
from starlette.responses import JSONResponse

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import (
    CorpusError,
    DenseRetriever,
    IndexMismatchError,
    Passage,
    RetrievalError,
    RetrieverError,
    open_retriever,
)
from retrievers.corpus import write_corpus
from retrievers.engines.qdrant import QdrantRetriever
from retrievers.engines.qdrant_folder import check_folder

qdrant_client = pytest.importorskip(
    "qdrant_client", reason="qdrant-client is not installed: pip install igsearch[qdrant]"
)
models = pytest.importorskip("qdrant_client.models", reason="qdrant-client is not installed")

ENCODER = WordEncoder()
DENSE = DenseRetriever.build(CORPUS, ENCODER)


def fill(client: Any, passages: Sequence[Passage] = CORPUS, distance: str = "Cosine", **options: Any) -> None:
    """Make the collection `wiki`. Options: `payload` of a passage, `id` of its point, `name` of the vector."""
    payload = options.get("payload", lambda p: {"title": p.title, "text": p.text})
    id_of, name = options.get("id", lambda p: int(p.id)), options.get("name", "")
    described = models.VectorParams(size=ENCODER.dimension, distance=models.Distance(distance))
    client.create_collection("wiki", vectors_config={name: described} if name else described)
    vectors = ENCODER.encode_passages(passages).tolist()
    points = [
        models.PointStruct(id=id_of(p), vector={name: v} if name else v, payload=payload(p))
        for p, v in zip(passages, vectors, strict=True)
    ]
    client.upsert("wiki", points)


def folder(path: Path, **options: Any) -> str:
    """The source of a folder with that collection."""
    client = qdrant_client.QdrantClient(path=str(path))
    fill(client, **options)
    client.close()
    return f"qdrant:{path}/wiki"


def ids(lists: Sequence[Sequence[Passage]]) -> list[list[str]]:
    """Of results."""
    return [[passage.id for passage in passages] for passages in lists]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of the local mode."""
    return folder(tmp_path_factory.mktemp("qdrant") / "store", distance="Dot")


@pytest.fixture
def server() -> QdrantServer:
    """A server of the collection."""
    client = qdrant_client.QdrantClient(":memory:")
    fill(client)
    return QdrantServer(client)


@pytest.fixture
def url(server: QdrantServer) -> Iterator[str]:
    """Its address."""
    with serving(server.app) as address:
        yield address


@pytest.fixture(scope="module")
def always() -> Iterator[str]:
    """The address of a server that stays as it is."""
    client = qdrant_client.QdrantClient(":memory:")
    fill(client, distance="Dot")  # with Cosine, the local mode's scores change by 1e-7 from one search to the next
    with serving(QdrantServer(client).app) as address:
        yield address


class TestQdrantFolder(RetrieverContract):
    @pytest.fixture
    def retriever(self, local: str) -> Iterator[QdrantRetriever]:
        with closing(QdrantRetriever(local, encoder=ENCODER, batch_size=2)) as opened:
            yield opened


class TestQdrantServer(RetrieverContract):
    @pytest.fixture
    def retriever(self, always: str) -> Iterator[QdrantRetriever]:
        with closing(QdrantRetriever(f"qdrant:{always}/wiki", encoder=ENCODER)) as opened:
            yield opened


class TestQdrantWithCorpus(RetrieverContract):
    @pytest.fixture
    def retriever(self, local: str) -> Iterator[QdrantRetriever]:
        with closing(QdrantRetriever(local, encoder=ENCODER, passages=CORPUS)) as opened:
            yield opened


@pytest.mark.parametrize("distance", ["Cosine", "Dot"])
def test_it_ranks_as_exact_search_does(tmp_path: Path, distance: str) -> None:
    with closing(QdrantRetriever(folder(tmp_path / "store", distance=distance), encoder=ENCODER)) as opened:
        for found, expected in zip(opened.search(QUERIES, 8), DENSE.search(QUERIES, 8), strict=True):
            scores = {passage.id: passage.score for passage in expected}
            assert {passage.id: pytest.approx(passage.score, abs=1e-5) for passage in found} == scores


def test_equal_scores_are_ranked_by_id(tmp_path: Path) -> None:
    same = [Passage(str(i), "Herring", "The herring is a small fish.") for i in range(50)]
    with closing(QdrantRetriever(folder(tmp_path / "store", passages=same, distance="Dot"), encoder=ENCODER)) as opened:
        for k in (1, 3, 20, 50):
            assert ids(opened.search(["herring", "fish"], k)) == [[str(i) for i in range(k)]] * 2


def test_random_passages_are_uniform(local: str) -> None:
    rng = np.random.default_rng(0)
    with closing(QdrantRetriever(local, encoder=ENCODER)) as opened:
        drawn = Counter(passage.id for _ in range(200) for passage in opened.sample(2, rng))
    assert 30 < min(drawn.values()) <= max(drawn.values()) < 72  # of 50 expected; three deviations


@pytest.mark.parametrize(
    ("payload", "options", "point"),
    [
        (lambda p: {"contents": f'"{p.title}"\n{p.text}'}, "", int),
        (lambda p: {"body": f'"{p.title}"\n{p.text}', "text": "x"}, "?contents=body", int),
        (lambda p: {"body": p.text, "name": p.title, "text": "x"}, "?text=body&title=name", int),
        (
            lambda p: {"text": p.text, "title": p.title, "docid": p.id},
            "?id=docid&vector=dense",
            lambda id: f"00000000-0000-0000-0000-{int(id):012d}",
        ),
    ],
    ids=["contents", "contents by name", "two by name", "id and vector by name"],
)
def test_fields_of_a_passage(tmp_path: Path, payload: Any, options: str, point: Any) -> None:
    name = "dense" if "vector" in options else ""
    source = folder(tmp_path / "store", payload=payload, id=lambda p: point(p.id), name=name, distance="Dot") + options
    with closing(QdrantRetriever(source, encoder=ENCODER)) as opened:
        corpus = {passage.id: passage for passage in CORPUS}
        for passages in [*opened.search(QUERIES, 3), opened.sample(8, np.random.default_rng(0))]:
            assert [p.with_score(0.0) for p in passages] == [corpus[p.id] for p in passages]


@pytest.mark.parametrize(
    ("made", "options", "error", "message"),
    [
        ({}, "?vector=dense", CorpusError, r"no vector 'dense', but \[''\]"),
        ({"name": "dense"}, "", CorpusError, r"no vector '', but \['dense'\]; name one of them by"),
        ({"distance": "Euclid"}, "", CorpusError, r"the distance Euclid .*a score needs Cosine or Dot"),
        ({"payload": lambda p: {"year": 3}}, "", CorpusError, r"have the fields \['year'\]"),
        ({"payload": lambda p: {}}, "", CorpusError, r"have the fields \[\]"),
        ({"payload": lambda p: {"text": 3}}, "", CorpusError, r"the field 'text' of document '10' is 3"),
        ({"payload": lambda p: {"text": "a", "id": 1.5}}, "?id=id", CorpusError, r"the id of point 10 is 1.5"),
        ({}, "?limit=3", CorpusError, r"option 'limit=3'; each of \["),
        ({"passages": CORPUS[:3]}, "", IndexMismatchError, r"3 points with a corpus of 8 passages; index the corpus"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, made: Any, options: str, error: type, message: str) -> None:
    source = folder(tmp_path / "store", **made) + options
    with pytest.raises(error, match=message):
        QdrantRetriever(source, encoder=ENCODER, passages=CORPUS if "passages" in made else None)


def test_another_encoder_is_noticed(local: str) -> None:
    with pytest.raises(IndexMismatchError, match="64 dimensions, the encoder makes 32"):
        QdrantRetriever(local, encoder=WordEncoder(32))
    with pytest.raises(IndexMismatchError, match=r"vector of point 10 is not one of this encoder \(cosine 0"):
        QdrantRetriever(local, encoder=WordEncoder(salt="another"))
    with pytest.raises(CorpusError, match=r"names no encoder .*\?encoder=MODEL"):
        QdrantRetriever(local)


def test_an_empty_collection_is_named(tmp_path: Path) -> None:
    source = folder(tmp_path / "store")
    client = qdrant_client.QdrantClient(path=str(tmp_path / "store"))
    client.delete("wiki", models.PointIdsList(points=[int(p.id) for p in CORPUS]))
    client.close()
    with pytest.raises(IndexMismatchError, match="0 points; index the corpus first"):
        QdrantRetriever(source, encoder=ENCODER)


@pytest.mark.parametrize("source", ["qdrant:{folder}/nothing", "qdrant:{folder}/x/wiki", "qdrant:wiki", "qdrant:"])
def test_a_folder_without_a_collection_is_not_made(source: str, local: str, tmp_path: Path) -> None:
    named = source.format(folder=local.removeprefix("qdrant:").removesuffix("/wiki"))
    with pytest.raises(CorpusError, match=r"no collection|names no index"):
        QdrantRetriever(named, encoder=ENCODER)
    assert not (tmp_path / "x").exists()


class Payload:
    """What would run a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return sys.exit, ("this ran",)


@pytest.mark.parametrize("value", [pickle.dumps(Payload()), b"\x80\x04garbage", b"", pickle.dumps({"a": print})])
def test_nothing_of_a_folder_runs(tmp_path: Path, value: bytes) -> None:
    source = folder(tmp_path / "store")
    storage = tmp_path / "store" / "collection" / "wiki" / "storage.sqlite"
    with closing(sqlite3.connect(storage)) as database, database:
        key = base64.b64encode(pickle.dumps(99)).decode()
        database.execute("INSERT INTO points VALUES (?, ?)", (key, value))
    with pytest.raises(CorpusError, match=r"storage.sqlite: not a file of points .*it is not opened"):
        QdrantRetriever(source, encoder=ENCODER)
    storage.write_bytes(b"not sqlite")
    with pytest.raises(CorpusError, match="not a file of points"):
        check_folder(tmp_path / "store", "wiki")


def test_a_folder_in_use_is_named(local: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the second client of qdrant_client leaves its lock file open
        with closing(QdrantRetriever(local, encoder=ENCODER)):
            try:
                QdrantRetriever(local, encoder=ENCODER)
            except CorpusError as error:
                message = str(error)
        gc.collect()
    assert re.search(r"already accessed.*use a server", message)


# ---------------------------------------------------------------- a server


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_server_is_asked_again(server: QdrantServer, url: str, status: int) -> None:
    with closing(QdrantRetriever(f"qdrant:{url}/wiki", encoder=ENCODER, backoff=0.001)) as opened:
        fault = JSONResponse({"status": {"error": "overloaded"}}, status, headers={"retry-after": "0"})
        server.faults = [fault]
        assert len(opened.search(["river"], 2)[0]) == 2
        server.faults = [fault] * 3
        with pytest.raises(RetrievalError, match="Qdrant failed"):
            opened.search(["river"], 2)
        server.faults = [JSONResponse({"status": {"error": "x"}}, 429, headers={"retry-after": "9999"})]
        with pytest.raises(RetrievalError, match="Qdrant failed"):
            opened.search(["river"], 2)


def test_no_server_is_a_failure_that_may_pass() -> None:
    with pytest.raises(RetrievalError, match=r"Qdrant failed .*refused"):
        QdrantRetriever(f"qdrant:http://127.0.0.1:{free_port()}/wiki", encoder=ENCODER, backoff=0.001)


def test_refusals_are_named(server: QdrantServer, url: str) -> None:
    with pytest.raises(CorpusError, match=r"Qdrant refuses .*Not found: Collection"):
        QdrantRetriever(f"qdrant:{url}/nothing", encoder=ENCODER)
    server.key = "s3cret"
    with pytest.raises(CorpusError, match=r"Qdrant refuses .*401"):
        QdrantRetriever(f"qdrant:{url}/wiki", encoder=ENCODER)
    with closing(QdrantRetriever(f"qdrant:http://s3cret@{url[7:]}/wiki", encoder=ENCODER)) as opened:
        assert len(opened.search(["river"], 2)[0]) == 2
        assert "s3cret" not in f"{opened.fingerprint()} {opened.source}"
    with pytest.raises(CorpusError, match=r"address") as caught:
        QdrantRetriever("qdrant:http://s3cret@host:port/wiki", encoder=ENCODER)
    assert "s3cret" not in str(caught.value)


def test_the_fingerprint_changes_with_the_collection(server: QdrantServer, url: str) -> None:
    def fingerprint() -> dict[str, Any]:
        with closing(QdrantRetriever(f"qdrant:{url}/wiki", encoder=ENCODER)) as opened:
            return opened.fingerprint()

    first = fingerprint()
    assert {key: value for key, value in first.items() if key != "content"} == {
        "engine": "qdrant",
        "collection": "wiki",
        "vector": "",
        "distance": "Cosine",
        "fields": ["title", "text"],
        "encoder": ENCODER.fingerprint(),
        "passages": 8,
    }
    assert fingerprint() == first
    server.client.set_payload("wiki", {"text": "changed"}, points=[12])
    assert fingerprint()["content"] != first["content"]


def test_random_passages_of_a_collection_that_has_changed(server: QdrantServer, url: str) -> None:
    with closing(QdrantRetriever(f"qdrant:{url}/wiki", encoder=ENCODER)) as opened:
        server.client.delete("wiki", models.PointIdsList(points=[10]))
        with pytest.raises(RetrievalError, match="7 points, 8 when it was opened: open it again"):
            opened.sample(8, np.random.default_rng(0))


def test_it_is_opened_by_name_with_a_remote_encoder(url: str, tmp_path: Path) -> None:
    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    embedding = EmbeddingServer(WordEncoder(), "sentence-transformers/all-MiniLM-L6-v2")
    with serving(embedding.app) as encoder:
        source = f"qdrant:{url}/wiki?encoder={encoder}"
        for corpus, name in ((source, "auto"), (str(tmp_path / "corpus.jsonl"), source)):
            with closing(open_retriever(corpus, name)) as opened:
                assert isinstance(opened, QdrantRetriever)
                assert ids(opened.search(["the mouth of the Tagus"], 1)) == ids(
                    DENSE.search(["the mouth of the Tagus"], 1)
                )


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client.models", None)
    with pytest.raises(RetrieverError, match=r"requires qdrant_client.*pip install 'igsearch\[qdrant\]"):
        QdrantRetriever("qdrant:http://a/wiki", encoder=ENCODER)
