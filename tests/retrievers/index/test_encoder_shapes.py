"""Encoders of every shape that sentence-transformers has for text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from encoder_models import SHAPES, WIDTH, save, static, transformer
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import BoW, Pooling, StaticEmbedding

from retrievers import Passage
from retrievers.dense import DenseRetriever
from retrievers.index.checked import passage_vectors
from retrievers.index.encoder import EncoderError, SentenceEncoder

PASSAGES = [
    Passage("1", "Paris", "the capital of france"),
    Passage("2", "Berlin", "a city of germany"),
    Passage("3", "Seine", "river"),
]
LIMITS = {
    "transformer": 32,
    "transformer without a limit": 64,  # the positions of its model
    "dense and normalize": 32,
    "clip": 24,
    "router of static and transformer": 32,
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_model_of_any_shape_is_searched_with(shape: str, tmp_path: Path) -> None:
    folder = save(shape, tmp_path)
    encoder = SentenceEncoder(folder, device="cpu")
    assert encoder.max_length == LIMITS.get(shape)
    assert encoder.batch_size >= 1
    for vectors in (encoder.encode_passages(PASSAGES), encoder.encode_queries([p.text for p in PASSAGES])):
        assert vectors.shape == (3, encoder.dimension)
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    long = Passage("4", "the", "river " * 2000)
    assert np.isfinite(encoder.encode_passages([long])).all()
    found = DenseRetriever.build(PASSAGES, encoder).search(["Seine\nriver"], 3)[0]
    assert sorted(p.id for p in found) == ["1", "2", "3"]
    if "router" not in shape or shape == "router by modality":  # which encodes queries by other weights
        assert found[0].id == "3"
        assert found[0].score == pytest.approx(1, abs=1e-5)
    again = SentenceEncoder(folder, device="cpu", max_length=encoder.max_length)
    assert again.fingerprint() == encoder.fingerprint()
    assert json.loads(json.dumps(encoder.fingerprint())) == encoder.fingerprint()


@pytest.mark.parametrize("shape", ["static", "bag of words", "word embeddings"])
def test_a_model_without_a_limit_takes_none(shape: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"max_length=8: must be left out: .* has no limit"):
        SentenceEncoder(save(shape, tmp_path), device="cpu", max_length=8)


def test_a_limit_holds_for_the_route_that_has_one(tmp_path: Path) -> None:
    encoder = SentenceEncoder(save("router of static and transformer", tmp_path), device="cpu", max_length=8)
    cut, whole = Passage("1", "", "the river " * 4), Passage("2", "", "the river " * 4 + "paris")
    assert encoder.encode_passages([cut]) == pytest.approx(encoder.encode_passages([whole]), abs=1e-5)
    assert np.abs(encoder.encode_queries([cut.text]) - encoder.encode_queries([whole.text])).max() > 1e-3


def test_a_router_encodes_queries_and_passages_by_their_routes(tmp_path: Path) -> None:
    encoder = SentenceEncoder(save("router by passage", tmp_path), device="cpu")
    for number, vectors in enumerate(
        (encoder.encode_queries(["Seine\nriver"]), encoder.encode_passages([Passage("3", "Seine", "river")]))
    ):
        alone = SentenceTransformer(modules=[static(number)], device="cpu").encode(["Seine\nriver"])
        assert vectors == pytest.approx(alone / np.linalg.norm(alone), abs=1e-6)


def test_routes_that_dont_serve_are_named(tmp_path: Path) -> None:
    wide = StaticEmbedding(static().tokenizer, embedding_dim=2 * WIDTH)
    routers = {
        "dimensions": Router.for_query_document([static()], [wide]),
        "routes": Router({"title": [static()], "body": [static()]}, allow_empty_key=False),
    }
    for name, message in (
        ("dimensions", "queries have 16 dimensions, its passages 32"),
        ("routes", "can't encode a query .*No route found"),
    ):
        SentenceTransformer(modules=[routers[name]], device="cpu").save(str(tmp_path / name), create_model_card=False)
        with pytest.raises(EncoderError, match=message):
            SentenceEncoder(str(tmp_path / name), device="cpu")


def test_pooling_and_vocabulary_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    for name, modules in {
        "mean": [transformer(tmp_path / "bert"), Pooling(WIDTH, "mean")],
        "cls": [transformer(tmp_path / "bert"), Pooling(WIDTH, "cls")],
        "one": [BoW(["river", "city"])],
        "other": [BoW(["france", "paris"])],
    }.items():
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / name), create_model_card=False)
    prints = [SentenceEncoder(str(tmp_path / n), device="cpu").fingerprint() for n in ("mean", "cls", "one", "other")]
    for first, second in ((prints[0], prints[1]), (prints[2], prints[3])):
        assert {**first, "model": ""} != {**second, "model": ""}


def test_a_prefix_that_pooling_leaves_out_is_left_out(tmp_path: Path) -> None:
    modules = [transformer(tmp_path / "bert", model_max_length=32), Pooling(WIDTH, "mean", include_prompt=False)]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save(str(tmp_path / "model"), create_model_card=False)
    encoder = SentenceEncoder(str(tmp_path / "model"), device="cpu", query_prefix="query : ")
    right = model.encode(["the river"], prompt="query : ", normalize_embeddings=True)
    assert encoder.encode_queries(["the river"]) == pytest.approx(right, abs=1e-5)
    pooled = SentenceEncoder(str(tmp_path / "model"), device="cpu").encode_queries(["query : the river"])
    assert np.abs(encoder.encode_queries(["the river"]) - pooled).max() > 1e-3


def test_float16_that_overflows_stops_with_the_passage(tmp_path: Path) -> None:
    modules = [transformer(tmp_path / "bert", scale=1e6, model_max_length=32), Pooling(WIDTH, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"), create_model_card=False)
    whole = SentenceEncoder(str(tmp_path / "model"), device="cpu", dtype="float32")
    assert np.linalg.norm(passage_vectors(whole, PASSAGES), axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    half = SentenceEncoder(str(tmp_path / "model"), device="cpu", dtype="float16")
    with pytest.raises(EncoderError, match=r"passage '1' \(title 'Paris'\): its vector is not finite.*--dtype float32"):
        DenseRetriever.build(PASSAGES, half)


def test_a_length_that_overflows_float16_does_no_harm(tmp_path: Path) -> None:
    # Numbers of some thousands: float16 holds them, but not the sum of their squares.
    modules = [transformer(tmp_path / "bert", scale=5e3, model_max_length=32), Pooling(WIDTH, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"), create_model_card=False)
    vectors = [
        passage_vectors(SentenceEncoder(str(tmp_path / "model"), device="cpu", dtype=dtype), PASSAGES)
        for dtype in ("float32", "float16")
    ]
    assert (vectors[0] * vectors[1]).sum(axis=1) == pytest.approx(np.ones(3), abs=0.01)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("router_config.json", {"types": {"a": "os.path.join"}, "structure": {}, "parameters": {}}),
        ("0_WordEmbeddings/wordembedding_config.json", {"tokenizer_class": "os.path.join"}),
    ],
)
def test_modules_inside_modules_run_no_code(file: str, content: dict[str, object], tmp_path: Path) -> None:
    folder = Path(save("static", tmp_path))
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(EncoderError, match=r"module type 'os\.path\.join'; only modules of sentence_transformers"):
        SentenceEncoder(str(folder), device="cpu")
