"""Encoders by address: the vectors are those of the served model, or there is an error that says why not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from embedding_server import EmbeddingServer
from encoders import WordEncoder
from services import free_port, serving
from starlette.responses import JSONResponse

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import DenseRetriever, IndexMismatchError, RetrievalError, SentenceEncoder, open_retriever
from retrievers.build_index import Args, build
from retrievers.corpus import write_corpus
from retrievers.index.encoder import EncoderError, check_encoder
from retrievers.index.remote_encoder import PROBE, ProbeVector, RemoteEncoder, open_encoder
from retrievers.service.address import VARIABLE
from retrievers.service.wire import index_mark

FORMS = pytest.mark.parametrize("path", ["", "/v1"], ids=["tei", "openai"])


@pytest.fixture
def server() -> EmbeddingServer:
    """A server of a model of the E5 family."""
    return EmbeddingServer(WordEncoder())


@pytest.fixture
def url(server: EmbeddingServer) -> Iterator[str]:
    """Its address."""
    with serving(server.app) as address:
        yield address


def expected(texts: list[str]) -> Any:
    """The unit vectors of texts."""
    return WordEncoder().encode_queries(texts)


@pytest.fixture(scope="module")
def always() -> Iterator[str]:
    """The address of a server that stays as it is."""
    with serving(EmbeddingServer(WordEncoder()).app) as address:
        yield address


class TestOverTextEmbeddingsInference(RetrieverContract):
    @pytest.fixture
    def retriever(self, always: str) -> Iterator[DenseRetriever]:
        with closing(RemoteEncoder(always)) as encoder:
            yield DenseRetriever.build(CORPUS, encoder)


class TestOverOpenAIForm(RetrieverContract):
    @pytest.fixture
    def retriever(self, always: str) -> Iterator[DenseRetriever]:
        with closing(RemoteEncoder(f"{always}/v1")) as encoder:
            yield DenseRetriever.build(CORPUS, encoder)


@FORMS
def test_vectors_are_those_of_the_model_with_the_prefixes_of_its_family(
    url: str, path: str, server: EmbeddingServer
) -> None:
    with closing(RemoteEncoder(url + path)) as encoder:
        found = encoder.encode_queries(QUERIES)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected([f"query: {query}" for query in QUERIES]), atol=1e-6)
        texts = [f"passage: {p.title}\n{p.text}" for p in CORPUS]
        np.testing.assert_allclose(encoder.encode_passages(CORPUS), expected(texts), atol=1e-6)
        assert encoder.dimension == 64
        assert encoder.encode_queries([]).shape == (0, 64)
    with closing(RemoteEncoder(url + path, query_prefix="", passage_prefix="p ")) as encoder:
        np.testing.assert_allclose(encoder.encode_queries(QUERIES), expected(QUERIES), atol=1e-6)
        assert encoder.fingerprint()["passage_prefix"] == "p "
    if not path:
        assert server.bodies[-1].keys() == {"inputs", "normalize", "truncate"}


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ({"owned_by": "vllm", "max_model_len": 512}, {"truncate_prompt_tokens": -1}),
        ({"owned_by": "library"}, {}),
    ],
    ids=["vllm", "another"],
)
def test_what_is_sent_in_openais_form(
    url: str, server: EmbeddingServer, listed: dict[str, Any], sent: dict[str, int]
) -> None:
    server.listed = [{"id": server.model, **listed}]
    with closing(RemoteEncoder(f"{url}/v1/embeddings")) as encoder:
        encoder.encode_queries(["river"])
        assert encoder.fingerprint()["max_length"] == listed.get("max_model_len")
    body = server.bodies[-1]
    assert body["input"][0] == "query: river"
    assert {key: value for key, value in body.items() if key != "input"} == {
        "model": server.model,
        "encoding_format": "float",
        **sent,
    }


@FORMS
def test_requests_are_no_larger_than_the_server_allows(url: str, path: str, server: EmbeddingServer) -> None:
    server.max_texts = 5
    texts = [f"{query} {i}" for i in range(9) for query in QUERIES]
    with closing(RemoteEncoder(url + path, query_prefix="", batch_size=7)) as encoder:
        np.testing.assert_allclose(encoder.encode_queries(texts), expected(texts), atol=1e-6)
    sizes = {len(body.get("inputs") or body["input"]) for body in server.bodies}
    assert max(sizes) == (8 if path else 5)  # with the probe; one form says how many it takes


def test_what_the_server_refuses_as_too_large_is_sent_in_halves(url: str, server: EmbeddingServer) -> None:
    texts = [f"{query} {i}" for i in range(9) for query in QUERIES]
    with closing(RemoteEncoder(url, query_prefix="")) as encoder:
        server.max_texts = 5
        np.testing.assert_allclose(encoder.encode_queries(texts), expected(texts), atol=1e-6)


@FORMS
@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_asked_again_when_it_says(
    url: str, path: str, server: EmbeddingServer, status: int
) -> None:
    with closing(RemoteEncoder(url + path, query_prefix="", backoff=0.0)) as encoder:
        server.faults = [JSONResponse({"error": "overloaded"}, status, headers={"retry-after": "1"})]
        start = time.monotonic()
        np.testing.assert_allclose(encoder.encode_queries(["river"]), expected(["river"]), atol=1e-6)
        assert time.monotonic() - start >= 1.0
        server.faults = [JSONResponse({"error": "overloaded"}, status, headers={"retry-after": "9999"})]
        with pytest.raises(RetrievalError, match=rf"embedding server failed \(1 attempts.*status {status}.*overloaded"):
            encoder.encode_queries(["river"])  # longer than the deadline


@FORMS
def test_no_server_is_a_failure_that_may_pass(path: str) -> None:
    with pytest.raises(RetrievalError, match=r"embedding server failed.*ConnectError.*Check that it runs"):
        RemoteEncoder(f"http://127.0.0.1:{free_port()}{path}", backoff=0.0)


def test_the_deadline_holds() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        time.sleep(1.0)
        return httpx.Response(503)

    with pytest.raises(RetrievalError, match=r"deadline of 0.3 s"):
        RemoteEncoder("http://a", transport=httpx.MockTransport(answer), deadline=0.3)


# ---------------------------------------------------------------- the same model


@FORMS
def test_an_index_is_opened_with_the_model_that_it_was_built_with(
    url: str, path: str, server: EmbeddingServer, tmp_path: Path
) -> None:
    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    args = Args(tmp_path / "corpus.jsonl", tmp_path / "index")
    with closing(RemoteEncoder(url + path)) as encoder:
        assert build(args, encoder)
        assert encoder.name == url + path
    server.scale = 1.0
    with (
        closing(RemoteEncoder(url + path)) as encoder,
        closing(DenseRetriever.load(args.output, encoder=encoder)) as found,
    ):
        ranked = [[p.id for p in passages] for passages in found.search(QUERIES, 3)]
        assert ranked == [
            [p.id for p in passages] for passages in DenseRetriever.build(CORPUS, encoder).search(QUERIES, 3)
        ]
    server.encoder = WordEncoder(salt="another model")
    with (
        closing(RemoteEncoder(url + path)) as encoder,
        pytest.raises(IndexMismatchError, match="vectors were made with probe="),
    ):
        DenseRetriever.load(args.output, encoder=encoder)
    server.encoder, server.model = WordEncoder(), "another/name"
    server.listed[0]["id"] = server.model
    with (
        closing(RemoteEncoder(url + path, query_prefix="query: ", passage_prefix="passage: ")) as encoder,
        pytest.raises(IndexMismatchError, match="vectors were made with served_model='intfloat/e5-base-v2'"),
    ):
        DenseRetriever.load(args.output, encoder=encoder)


@FORMS
def test_another_model_at_the_same_address_is_noticed(url: str, path: str, server: EmbeddingServer) -> None:
    with closing(RemoteEncoder(url + path)) as encoder:
        encoder.encode_queries(["river"])
        server.encoder = WordEncoder(salt="another model")
        with pytest.raises(EncoderError, match=r"no longer the intfloat/e5-base-v2 that it was.*serve the same model"):
            encoder.encode_queries(["river"])


def test_the_last_digits_of_the_probe_do_not_matter(url: str) -> None:
    with closing(RemoteEncoder(url)) as encoder:
        first = encoder.fingerprint()
    rng = np.random.default_rng(0)
    noisy = [number + float(rng.normal(0, 1e-3)) for number in first["probe"]]
    second = {**json.loads(json.dumps(first)), "probe": noisy}
    check_encoder(first, second, "index")
    assert second == first  # plain JSON on either side
    assert index_mark({"encoder": first}) == index_mark({"encoder": second})
    for other in (
        [],
        [1.0],
        None,
        "x",
        [*noisy[1:], 0.0],
        [-number for number in noisy],
        ["x"] * len(noisy),
        [0.0] * 64,
    ):
        assert first["probe"] != other
    assert ProbeVector() != []
    with pytest.raises(IndexMismatchError, match="probe="):
        check_encoder(first, {**second, "probe": noisy[::-1]}, "index")


# ---------------------------------------------------------------- recorded answers

INFO = (  # text-embeddings-inference 1.7, GET /info
    b'{"model_id":"BAAI/bge-base-en-v1.5","model_sha":"a5beb1e3e68b9ab74eb54cfd186867f64f240e1a","model_dtype":"float16",'
    b'"model_type":{"embedding":{"pooling":"cls"}},"max_concurrent_requests":512,"max_input_length":512,'
    b'"max_batch_tokens":16384,"max_batch_requests":null,"max_client_batch_size":32,"auto_truncate":false,'
    b'"tokenization_workers":8,"version":"1.7.1","sha":null,"docker_label":null}'
)
EMBED = b"[[0.6,0.8,-0.0],[0.6,0.8,-0.0]]"
MODELS = (  # vLLM, GET /v1/models
    b'{"object":"list","data":[{"id":"BAAI/bge-base-en-v1.5","object":"model","created":1750000000,"owned_by":"vllm",'
    b'"root":"BAAI/bge-base-en-v1.5","parent":null,"max_model_len":512,"permission":[]}]}'
)
EMBEDDINGS = (  # vLLM, POST /v1/embeddings
    b'{"id":"embd-1","object":"list","created":1750000000,"model":"BAAI/bge-base-en-v1.5","data":[{"index":0,"object":'
    b'"embedding","embedding":[0.6,0.8,0.0]},{"index":1,"object":"embedding","embedding":[0.6,0.8,0.0]}],"usage":'
    b'{"prompt_tokens":14,"total_tokens":14,"completion_tokens":0,"prompt_tokens_details":null}}'
)
RECORDED = {"/info": INFO, "/embed": EMBED, "/v1/models": MODELS, "/v1/embeddings": EMBEDDINGS}


def recorded(**changed: bytes | httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    """A server that gives recorded answers, changed ones by the last part of the path."""

    def answer(request: httpx.Request) -> httpx.Response:
        given = changed.get(request.url.path.rpartition("/")[2], RECORDED[request.url.path])
        return given if isinstance(given, httpx.Response) else httpx.Response(200, content=given)

    return answer


def opened(path: str, address: str = "http://a", **changed: bytes | httpx.Response) -> RemoteEncoder:
    """An encoder of recorded answers."""
    return RemoteEncoder(address + path, transport=httpx.MockTransport(recorded(**changed)), backoff=0.0)


@FORMS
def test_recorded_answers(path: str) -> None:
    with closing(opened(path)) as encoder:
        np.testing.assert_allclose(encoder.encode_queries(["river"]), [[0.6, 0.8, 0.0]], atol=1e-7)
        assert encoder.fingerprint() == {
            "model": "BAAI/bge-base-en-v1.5",
            "served_model": "BAAI/bge-base-en-v1.5",
            "probe": [0.6, 0.8, 0.0],
            "query_prefix": "Represent this sentence for searching relevant passages: ",
            "passage_prefix": "",
            "max_length": 512,
            "dimension": 3,
        }


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ("[[0.6, 0.8]]", "1 vectors for 2 texts"),
        ("[[0.6, 0.8], [0.6, 0.8], [0.6, 0.8]]", "3 vectors for 2 texts"),
        ("[[0.6, 0.8], [0.6]]", "vectors of different lengths"),
        ("[[], []]", "vectors of 0 dimensions"),
        ("[[0.6, NaN], [0.6, 0.8]]", "a number that is not finite"),
        ("[[0.6, 1e999], [0.6, 0.8]]", "a number that is not finite"),
        ("[[1e300, 1e300], [0.6, 0.8]]", "a number that is not finite"),
        ("[[0.0, 0.0], [0.6, 0.8]]", "is zero"),
        ('[["0.6", "0.8"], ["0.6", "0.8"]]', "not lists of numbers"),
        ("[[null, 0.8], [0.6, 0.8]]", "not lists of numbers"),
        ("[[true, false], [true, false]]", "not lists of numbers"),
        ("[[[0.6], [0.8]], [[0.6], [0.8]]]", "not lists of numbers"),
        ("[0.6, 0.8]", "not lists of numbers"),
        ("{}", "not a list of vectors|no embedding"),
        ("[[0.6, 0.8", "not a response of such a service"),
    ],
)
@FORMS
def test_a_wrong_answer_is_named_and_no_vector(path: str, vectors: str, message: str) -> None:
    if not path:
        changed = {"embed": vectors.encode()}
    else:
        try:
            data = [{"index": i, "embedding": v} for i, v in enumerate(json.loads(vectors) or [{}])]
            content = json.dumps({"data": data if vectors != "{}" else [{}]})
        except ValueError:
            content = '{"data": [{"index"'
        changed = {"embeddings": content.encode()}
    with pytest.raises(RetrievalError, match=message):
        opened(path, **changed)


@pytest.mark.parametrize("indexes", [(0, 0), (1, 2), (0, "1"), (0, None), (0, True)], ids=str)
def test_every_text_has_its_vector(indexes: Any) -> None:
    data = [{"index": i, "embedding": [0.6, 0.8]} for i in indexes]
    with pytest.raises(RetrievalError, match="index"):
        opened("/v1", embeddings=json.dumps({"data": data}).encode())


@pytest.mark.parametrize(
    ("path", "changed", "message"),
    [
        ("", {"info": httpx.Response(404)}, r"status 404.*OpenAI's form http://HOST:PORT/v1"),
        ("", {"info": httpx.Response(401, json={"error": "Unauthorized"})}, "status 401, Unauthorized"),
        ("", {"embed": httpx.Response(424, json={"error": "no embeddings"})}, "status 424, no embeddings"),
        ("", {"info": INFO.replace(b"embedding", b"reranker")}, r"is of the type \['reranker'\]"),
        ("#other/model", {}, "serves 'BAAI/bge-base-en-v1.5', the address names 'other/model'"),
        ("/v1#other", {}, r"no model 'other': name one of \['BAAI/bge-base-en-v1.5'\]"),
        ("/v1", {"models": b'{"data": [{"id": "a"}, {"id": "b"}]}'}, r"2 models: name one of \['a', 'b'\] as http"),
        ("/v1", {"embeddings": httpx.Response(400, json={"error": {"message": "too long"}})}, "status 400.*too long"),
    ],
)
def test_what_does_not_fit_is_named(path: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        opened(path, **changed)


def test_one_of_several_models() -> None:
    models = b'{"object":"list","data":[{"id":"llama3:8b"},{"id":"BAAI/bge-base-en-v1.5"}]}'
    with closing(opened("/v1#BAAI/bge-base-en-v1.5", models=models)) as encoder:
        assert encoder.name == "http://a/v1#BAAI/bge-base-en-v1.5"
        assert encoder.dimension == 3


@pytest.mark.parametrize("address", ["ftp://a", "http://", "http://a?x=1", "a:8080"])
def test_bad_addresses_are_named(address: str) -> None:
    with pytest.raises(EncoderError, match="http://"):
        RemoteEncoder(address)


@pytest.mark.parametrize("options", [{"deadline": 0}, {"attempts": 0}, {"backoff": -1}, {"batch_size": 0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(EncoderError, match=rf"{name}={value}.*must"):
        RemoteEncoder("http://a", **options)


# ---------------------------------------------------------------- credentials, opening by name


@FORMS
def test_a_token_is_sent_and_shown_nowhere(
    url: str, path: str, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "s3cret#1"
    host = url.removeprefix("http://")
    with closing(RemoteEncoder(f"http://s3cret%231@{host}{path}")) as encoder:
        encoder.encode_queries(["river"])
        assert "s3cret" not in f"{encoder.name} {encoder.fingerprint()} {encoder!r} {vars(encoder)}"
        assert encoder.name == f"http://***@{host}{path}"
        monkeypatch.setenv(VARIABLE, server.token)
        with closing(RemoteEncoder(encoder.name)) as again:
            assert again.fingerprint() == encoder.fingerprint()
    with pytest.raises(EncoderError, match="status 401") as caught:
        RemoteEncoder(f"http://user:s3cret@{host}{path}")
    assert "s3cret" not in str(caught.value)


def test_an_encoder_is_opened_by_name_or_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SentenceEncoder, "__init__", lambda self, name, **options: self.__dict__.update(options, name=name)
    )
    local = open_encoder("intfloat/e5-base-v2", query_prefix="q", max_length=7, dtype="bfloat16")
    assert vars(local) == {
        "name": "intfloat/e5-base-v2",
        "query_prefix": "q",
        "passage_prefix": None,
        "max_length": 7,
        "dtype": "bfloat16",
        "batch_size": None,
    }
    for options in ({}, {"max_length": 512}, {"batch_size": 3}):
        encoder = open_encoder(url, **options)  # type: ignore[arg-type]
        assert isinstance(encoder, RemoteEncoder)
        encoder.close()
    with pytest.raises(EncoderError, match=r"max_length=256 with http.*the server's own limit is 512"):
        open_encoder(url, max_length=256)
    with pytest.raises(EncoderError, match=r"dtype='float16'.*the server chooses it"):
        open_encoder(url, dtype="float16")


@FORMS
def test_an_index_is_built_and_searched_through_an_address(
    server: EmbeddingServer, url: str, path: str, tmp_path: Path
) -> None:
    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    build(Args(tmp_path / "corpus.jsonl", tmp_path / "index", encoder=url + path))
    (sent,) = (body.get("inputs", body.get("input")) for body in server.bodies[-1:])
    assert {text.partition(" ")[0] for text in sent if text != PROBE} == {"passage:"}
    with closing(open_retriever(str(tmp_path / "index"))) as retriever:
        found = retriever.search(["capital of France", "small herring"], 2)
    with closing(RemoteEncoder(url + path, query_prefix="query: ", passage_prefix="passage: ")) as encoder:
        right = DenseRetriever.build(CORPUS, encoder).search(["capital of France", "small herring"], 2)
    assert [[passage.id for passage in passages] for passages in found] == [[p.id for p in ps] for ps in right]
    server.encoder = WordEncoder(salt="another model")
    with pytest.raises(IndexMismatchError, match="its vectors were made with probe"):
        open_retriever(str(tmp_path / "index"))
