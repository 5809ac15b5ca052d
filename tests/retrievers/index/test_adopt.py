"""Index files that somebody else built: taken if they are of this corpus, refused with the reason if not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pytest
from encoders import WordEncoder

from retrievers import IndexMismatchError, Passage
from retrievers.build_index import Args, build
from retrievers.corpus import load_corpus
from retrievers.dense import DenseRetriever
from retrievers.index.engine import Vectors
from retrievers.index.manifest import read_manifest
from retrievers.index.self_hits import FORMATS
from retrievers.index.vector_index import VectorIndex

IP, L2 = faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2
DIMENSION, COUNT = 64, 200
Make = Callable[[Path, Vectors], None]
WORDS = [f"word{i}" for i in range(400)]
SHUFFLED = np.random.default_rng(1).permutation(COUNT)


@pytest.fixture
def args(tmp_path: Path) -> Args:
    """Options over a corpus of 200 passages with titles in quotes."""
    rng = np.random.default_rng(0)
    rows = [
        {"id": str(i), "contents": f'"{" ".join(rng.choice(WORDS, 2))}"\n{" ".join(rng.choice(WORDS, 8))}'}
        for i in range(COUNT)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return Args(corpus=tmp_path / "corpus.jsonl", output=tmp_path / "index", adopt=tmp_path / "file")


def by_faiss(spec: str, metric: int = IP, ids: Any = None) -> Make:
    """Writes an index of faiss."""

    def make(path: Path, vectors: Vectors) -> None:
        index: Any = faiss.index_factory(vectors.shape[1], spec, metric)
        index.train(vectors)
        if ids is None:
            index.add(vectors)
        else:
            index.add_with_ids(vectors, np.asarray(ids, np.int64))
        faiss.write_index(index, str(path))

    return make


def by_hnswlib(space: str, ids: Any = None, deleted: Sequence[int] = ()) -> Make:
    """Writes an index of hnswlib, with room for more vectors."""

    def make(path: Path, vectors: Vectors) -> None:
        index = hnswlib.Index(space, vectors.shape[1])
        index.init_index(len(vectors) + 5, M=16, ef_construction=100)
        index.add_items(vectors, np.arange(len(vectors)) if ids is None else ids)
        for label in deleted:
            index.mark_deleted(label)
        index.save_index(str(path))

    return make


def adopted(args: Args, make: Make, vectors: Vectors) -> DenseRetriever:
    """What a file is searched as after it was adopted."""
    assert args.adopt is not None
    make(args.adopt, vectors)
    assert build(args, WordEncoder(DIMENSION))
    return DenseRetriever.load(args.output, encoder=WordEncoder(DIMENSION))


def encoded(args: Args) -> tuple[list[Passage], Vectors]:
    """The passages and their vectors."""
    passages = load_corpus(args.corpus)
    return passages, WordEncoder(DIMENSION).encode_passages(passages)


@pytest.mark.parametrize(
    ("make", "spec", "found"),
    [
        (by_faiss("Flat"), "Flat", "Flat"),
        (by_faiss("Flat", L2), "Flat", "Flat"),
        (by_faiss("HNSW16", L2), "HNSW16", "HNSW16"),
        (by_faiss("HNSW16"), "Flat", "HNSW16"),
        (by_faiss("Flat", L2), "HNSW64", "Flat"),
        (by_faiss("IVF4,Flat"), "IVF4,Flat", "IVF4,Flat"),
        (by_faiss("IVF4,Flat", L2), "Flat", "IVF4,Flat"),
        (by_faiss("SQfp16", L2), "SQfp16", "SQfp16"),
        (by_faiss("L2norm,Flat", L2), "Flat", "PreTransform,Flat"),
        (by_faiss("IDMap,Flat", ids=range(COUNT)), "Flat", "Flat"),
        (by_faiss("IDMap2,HNSW16", ids=range(COUNT)), "Flat", "IDMap2,HNSW16"),
        (by_hnswlib("ip"), "hnswlib", "hnswlib"),
        (by_hnswlib("l2"), "hnswlib", "hnswlib"),
        (by_hnswlib("cosine"), "Flat", "hnswlib"),
        (by_faiss("Flat"), "hnswlib", "Flat"),
    ],
)
def test_an_index_of_any_kind_answers_as_exact_search(make: Make, spec: str, found: str, args: Args) -> None:
    passages, vectors = encoded(args)
    retriever = adopted(replace(args, index=spec), make, vectors)
    exact = DenseRetriever.build(passages, WordEncoder(DIMENSION))
    queries = [f"{p.title} {p.text}" for p in passages[:20]]
    for ours, theirs in zip(retriever.search(queries, 3), exact.search(queries, 3), strict=True):
        assert [p.score for p in ours] == pytest.approx([p.score for p in theirs], abs=2e-3)
        assert ours[0].id == theirs[0].id
    recorded = read_manifest(args.output)["index"]
    assert recorded["spec"] == found
    assert recorded["self_hit"] == 1.0
    assert recorded["self_similarity"] == pytest.approx(1, abs=2e-3)
    retriever.close()


@pytest.mark.parametrize(
    "make",
    [
        by_faiss("IDMap,Flat", ids=SHUFFLED),
        by_faiss("IDMap2,Flat", L2, ids=SHUFFLED),
        by_faiss("IVF4,Flat", ids=SHUFFLED),
        by_faiss("IDMap,IVF4,Flat", ids=SHUFFLED),
        by_hnswlib("ip", ids=SHUFFLED),
        by_hnswlib("l2", ids=SHUFFLED),
    ],
)
def test_ids_that_are_rows_in_another_order_are_applied(make: Make, args: Args) -> None:
    passages, vectors = encoded(args)
    retriever = adopted(args, make, vectors[SHUFFLED])
    found = retriever.search([f"{p.title} {p.text}" for p in passages], 1)
    assert [ranked[0].id for ranked in found] == [p.id for p in passages]


@pytest.mark.parametrize(
    "make",
    [
        by_faiss("IDMap,Flat", ids=range(1, COUNT + 1)),
        by_faiss("IDMap2,Flat", ids=range(10**9, 10**9 + COUNT)),
        by_faiss("IDMap,Flat", ids=[-1, *range(1, COUNT)]),
        by_faiss("IDMap,Flat", ids=[0, *range(COUNT - 1)]),
        by_faiss("IVF4,Flat", ids=range(1, COUNT + 1)),
        by_hnswlib("ip", ids=range(1, COUNT + 1)),
    ],
)
def test_ids_that_are_no_rows_are_refused(make: Make, args: Args) -> None:
    with pytest.raises(
        IndexMismatchError, match=r"its ids go from .*must be the rows of the corpus, 0 to 199, each once"
    ):
        adopted(args, make, encoded(args)[1])
    assert not args.output.exists()


def spread(vectors: Vectors) -> Vectors:
    """Vectors of different lengths."""
    return vectors * np.linspace(0.5, 9, len(vectors), dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (by_faiss("Flat"), lambda v: v[SHUFFLED], r"\d% of 200 sampled.*95% must; every vector is in .*another order"),
        (by_faiss("HNSW16", L2), lambda v: np.roll(v, 3, axis=0), r"0% of .*another order .*found \+3 rows away"),
        (by_hnswlib("ip"), lambda v: v[::-1].copy(), "another order than the passages.*pass the corpus file"),
        (by_faiss("Flat"), lambda v: v[:-1], "199 vectors for the 200 passages"),
        (by_faiss("Flat"), lambda v: np.concatenate([v, v[:1]]), "201 vectors for the 200 passages"),
        (by_hnswlib("l2"), lambda v: v[:50], "50 vectors for the 200 passages"),
        (by_faiss("Flat"), lambda v: v[:, :32].copy(), "32 dimensions, the encoder has 64"),
        (by_hnswlib("ip"), lambda v: v[:, :32].copy(), "32 dimensions, the encoder has 64"),
        (by_faiss("Flat"), spread, r"lengths from .* to .*, not 1.*normalise"),
        (by_faiss("HNSW16", L2), spread, r"lengths from .* to .*, not 1"),
        (by_faiss("IDMap,Flat", ids=range(COUNT)), spread, r"lengths from .* to .*, not 1"),
        (by_faiss("IVF4,Flat", L2), spread, r"lengths from .* to .*, not 1"),
        (by_hnswlib("l2"), lambda v: 3 * v, "lengths from 3 to 3, not 1"),
        (by_hnswlib("ip", deleted=[5, 6]), lambda v: v, "2 of its labels are marked as deleted"),
        (by_faiss("Flat", faiss.METRIC_L1), lambda v: v, "its metric is METRIC_L1"),
        (by_faiss("LSH", L2), lambda v: v, "IndexLSH compares bits"),
    ],
)
def test_what_would_be_searched_wrongly_is_refused(
    make: Make, change: Callable[[Vectors], Vectors], message: str, args: Args
) -> None:
    with pytest.raises(IndexMismatchError, match=message):
        adopted(args, make, change(encoded(args)[1]))
    assert not args.output.exists()


def test_vectors_of_another_encoder_are_refused(args: Args) -> None:
    other = WordEncoder(DIMENSION, salt="other").encode_passages(load_corpus(args.corpus))
    with pytest.raises(IndexMismatchError, match=r"inner product of 0\.\d\d on average.*another encoder, pooling"):
        adopted(args, by_faiss("Flat"), other)


def test_an_index_that_is_searched_too_little_is_told_from_a_wrong_one(args: Args) -> None:
    # Its lists are those of other vectors, so that a vector is not always in the nearest list.
    def make(path: Path, vectors: Vectors) -> None:
        index: Any = faiss.index_factory(DIMENSION, "IVF16,Flat", IP)
        index.train(vectors)
        index.add(vectors)
        quantizer: Any = faiss.downcast_index(index.quantizer)
        swapped = quantizer.reconstruct_n(0, 16)[::-1].copy()
        quantizer.reset()
        quantizer.add(swapped)
        faiss.write_index(index, str(path))

    args = replace(args, index="IVF16,Flat")
    with pytest.raises(IndexMismatchError, match=r"with nprobe=16 instead of nprobe=1 it is 100%.*--parameters"):
        adopted(replace(args, parameters="nprobe=1"), make, encoded(args)[1])
    adopted(replace(args, parameters="nprobe=16"), make, encoded(args)[1]).close()


def test_copies_of_a_passage_count_as_itself(args: Args) -> None:
    rows = [json.loads(line) for line in args.corpus.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["contents"] = rows[number % 20]["contents"]
    args.corpus.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert adopted(args, by_faiss("Flat"), encoded(args)[1]).search(["word1"], 5)
    assert read_manifest(args.output)["index"]["self_hit"] == 1.0


class Prefixed(WordEncoder):
    """An encoder with a prefix, for which the order of words and quotes matter."""

    def __init__(self, passage_prefix: str = "passage: ") -> None:
        super().__init__(DIMENSION)
        self.passage_prefix = passage_prefix

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        texts = [f"{self.passage_prefix}{p.title}\n{p.text}".strip() for p in passages]
        marked = [text.replace('"', " quote quote quote ").replace("\n", " line line line ") for text in texts]
        return self.encode_queries([text.replace(":", " colon colon colon") for text in marked])


@pytest.mark.parametrize("format", list(FORMATS))
def test_another_way_to_join_title_and_text_is_recorded(format: str, args: Args) -> None:
    passages = [FORMATS[format](p) for p in load_corpus(args.corpus)]
    assert args.adopt is not None
    by_faiss("Flat")(args.adopt, Prefixed().encode_passages(passages))
    build(args, Prefixed())
    recorded = read_manifest(args.output)["index"]
    assert recorded["passages_written_as"] == format
    assert recorded["self_similarity"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("built", "used"), [("", "passage: "), ("passage: ", ""), ("search_document: ", "passage: ")])
def test_another_prefix_is_named(built: str, used: str, args: Args) -> None:
    assert args.adopt is not None
    by_faiss("Flat")(args.adopt, Prefixed(built).encode_passages(load_corpus(args.corpus)))
    with pytest.raises(IndexMismatchError, match=rf"built with this prefix; pass --passage-prefix '{built}'"):
        build(args, Prefixed(used))
    build(args, Prefixed(built))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a file of faiss nor of hnswlib"),
        (b"\x93NUMPY\x01\x00", "neither a file of faiss nor of hnswlib"),
        (b"IBxF" + bytes(40), "a binary index"),
        (b"IxFI" + bytes(20), "can't be read as an index"),
        (b"Ixyz" + bytes(200), "can't be read as an index"),
        (bytes(40), "can't be read as an index"),
        (bytes(400), "can't be read as an index"),
    ],
)
def test_files_that_are_no_index_are_named(content: bytes, message: str, args: Args) -> None:
    assert args.adopt is not None
    args.adopt.write_bytes(content)
    with pytest.raises(IndexMismatchError, match=message):
        build(args, WordEncoder(DIMENSION))


@pytest.mark.parametrize("make", [by_faiss("Flat"), by_faiss("HNSW16"), by_hnswlib("ip")])
def test_half_a_file_is_named(make: Make, args: Args) -> None:
    assert args.adopt is not None
    make(args.adopt, encoded(args)[1])
    args.adopt.write_bytes(args.adopt.read_bytes()[:20_000])
    with pytest.raises(IndexMismatchError, match="can't be read as an index"):
        build(args, WordEncoder(DIMENSION))


def test_folders_are_named(args: Args, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IndexMismatchError, match="folder: a folder; --adopt takes the index file"):
        build(replace(args, adopt=tmp_path / "folder"), WordEncoder(DIMENSION))
    build(replace(args, adopt=None, output=tmp_path / "built"), WordEncoder(DIMENSION))
    with pytest.raises(IndexMismatchError, match="built: an index folder already: search it with --corpus"):
        build(replace(args, adopt=tmp_path / "built"), WordEncoder(DIMENSION))


def test_a_retriever_never_returns_rows_that_do_not_exist(args: Args) -> None:
    passages, vectors = encoded(args)
    assert args.adopt is not None
    by_faiss("IDMap,Flat", ids=range(1, COUNT + 1))(args.adopt, vectors)
    index = VectorIndex.load(args.adopt, "Flat", DIMENSION)
    retriever = DenseRetriever(passages, WordEncoder(DIMENSION), index)
    with pytest.raises(IndexMismatchError, match=r"returns numbers from .* to 200, but has 200 vectors"):
        retriever.search(["word1"], COUNT)


def test_a_graph_that_reaches_fewer_returns_fewer(args: Args) -> None:
    passages, vectors = encoded(args)
    assert args.adopt is not None
    by_hnswlib("ip", deleted=range(10, COUNT))(args.adopt, vectors)
    index = VectorIndex.load(args.adopt, "hnswlib", DIMENSION)
    found = DenseRetriever(passages, WordEncoder(DIMENSION), index).search(["word1"], 50)[0]
    assert 1 <= len(found) <= 10
    assert all(int(p.id) < 10 for p in found)


def test_the_estimate_alone_adopts_nothing(args: Args) -> None:
    assert args.adopt is not None
    by_faiss("Flat")(args.adopt, encoded(args)[1])
    assert not build(replace(args, estimate_only=True), WordEncoder(DIMENSION))
    assert not args.output.exists()
