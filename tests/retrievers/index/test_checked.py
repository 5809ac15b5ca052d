"""Vectors that are zero or not finite: a build stops, a search fails, no wrong neighbour is returned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoders import SpoiledEncoder, WordEncoder

from igsearch.testing.retriever_contract import CORPUS
from retrievers import Passage, RetrievalError
from retrievers.build_index import Args, build
from retrievers.corpus import write_corpus
from retrievers.dense import DenseRetriever
from retrievers.index.checked import passage_vectors, query_vectors
from retrievers.index.encoder import EncoderError

SPOILED = [*CORPUS, Passage("99", "A long one", "spoiled text")]
VALUES = [(0.0, "zero"), (np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite")]


@pytest.mark.parametrize(("value", "kind"), VALUES)
@pytest.mark.parametrize("index", ["memory", "Flat", "hnswlib"])
def test_a_passage_without_a_vector_stops_the_build(value: float, kind: str, index: str, tmp_path: Path) -> None:
    message = rf"passage '99' \(title 'A long one'\): its vector is {kind}.*another dtype"
    if index == "memory":
        with pytest.raises(EncoderError, match=message):
            DenseRetriever.build(SPOILED, SpoiledEncoder(value))
        return
    write_corpus(SPOILED, tmp_path / "corpus.jsonl")
    args = Args(corpus=tmp_path / "corpus.jsonl", output=tmp_path / "index", index=index)
    with pytest.raises(EncoderError, match=message):
        build(args, SpoiledEncoder(value))
    assert not args.output.exists()


@pytest.mark.parametrize(("value", "kind"), VALUES)
@pytest.mark.parametrize("index", ["Flat", "hnswlib", "HNSW32"])
def test_a_query_without_a_vector_fails_alone(value: float, kind: str, index: str) -> None:
    retriever = DenseRetriever.build(CORPUS, SpoiledEncoder(value), index)
    right = retriever.search(["river", "capital"], 2)
    if kind == "zero":  # nothing in common with any passage
        assert retriever.search(["river", "spoiled", "", "capital"], 2) == [right[0], [], [], right[1]]
        assert retriever.search(["spoiled"], 2) == [[]]
        return
    with pytest.raises(RetrievalError, match=rf"1 of 4 queries.*query 'spoiled': its vector is {kind}") as error:
        retriever.search(["river", "spoiled", "", "capital"], 2)
    assert error.value.results == [right[0], None, [], right[1]]
    with pytest.raises(RetrievalError) as error:
        retriever.search(["spoiled"], 2)
    assert error.value.results == [None]


class OtherShape(WordEncoder):
    """Returns one vector too few, or whole numbers."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def encode_queries(self, queries):  # type: ignore[no-untyped-def]
        vectors = super().encode_queries(queries)
        return (100 * vectors).astype(np.int64) if self.whole else vectors[1:]


@pytest.mark.parametrize(
    ("whole", "message"), [(False, r"float32 of shape \(7, 64\) for 8 texts"), (True, r"int64 of shape \(8, 64\)")]
)
def test_an_encoder_that_returns_something_else_is_named(whole: bool, message: str) -> None:
    with pytest.raises(EncoderError, match=rf"OtherShape: returned {message}.*must return floats of shape \(8, 64\)"):
        passage_vectors(OtherShape(whole), CORPUS)


class Long(WordEncoder):
    """Vectors of any length."""

    def encode_queries(self, queries):  # type: ignore[no-untyped-def]
        return super().encode_queries(queries) * np.linspace(1e-20, 1e20, len(queries))[:, None]


def test_vectors_of_another_length_are_normalised() -> None:
    assert passage_vectors(Long(), CORPUS) == pytest.approx(WordEncoder().encode_passages(CORPUS), abs=1e-6)
    vectors, usable, unusable = query_vectors(Long(), ["river", "capital"])
    assert vectors == pytest.approx(WordEncoder().encode_queries(["river", "capital"]), abs=1e-6)
    assert usable.all()
    assert unusable == {}


def test_composition_of_accents_does_not_matter() -> None:
    retriever = DenseRetriever.build([*CORPUS, Passage("99", "Orl\u00e9ans", "a town")], WordEncoder())
    assert retriever.search(["Orle\u0301ans"], 3) == retriever.search(["Orl\u00e9ans"], 3)
