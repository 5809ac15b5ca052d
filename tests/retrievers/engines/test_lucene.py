"""Searches through a real Lucene index of Anserini, where Pyserini and Java are installed; errors anywhere."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import CorpusError, HybridRetriever, IndexMismatchError, Passage, RetrieverError, open_retriever
from retrievers.corpus import write_corpus
from retrievers.engines.lucene import LuceneRetriever
from retrievers.service.wire import index_mark

with_java = pytest.mark.skipif(
    importlib.util.find_spec("pyserini") is None, reason="Pyserini is not installed: pip install igsearch[lucene]"
)


def contents(passage: Passage) -> dict[str, Any]:
    """A document in FlashRAG's form."""
    return {"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}


def build(folder: Path, documents: Sequence[dict[str, Any]], *options: str) -> str:
    """The source of an index of documents."""
    from pyserini.pyclass import autoclass

    (folder / "documents").mkdir(parents=True)
    (folder / "documents" / "all.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    index = str(folder / "index")
    arguments = ["-collection", "JsonCollection", "-input", str(folder / "documents"), "-index", index, "-threads", "1"]
    autoclass("io.anserini.index.IndexCollection").main([*arguments, *options])
    return f"lucene:{index}"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index that stores its documents."""
    return build(tmp_path_factory.mktemp("lucene"), [contents(p) for p in CORPUS], "-storeRaw")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index that stores nothing."""
    return build(tmp_path_factory.mktemp("lucene"), [contents(p) for p in CORPUS])


@with_java
class TestLucene(RetrieverContract):
    @pytest.fixture
    def retriever(self, index: str) -> Iterator[LuceneRetriever]:
        with closing(LuceneRetriever(index)) as opened:
            yield opened


@with_java
class TestLuceneWithCorpus(RetrieverContract):
    @pytest.fixture
    def retriever(self, bare: str) -> Iterator[LuceneRetriever]:
        with closing(LuceneRetriever(bare, passages=CORPUS)) as opened:
            yield opened


@with_java
def test_it_finds_what_anserini_finds(index: str) -> None:
    with closing(LuceneRetriever(index)) as opened:
        found = opened.search(["river \U0001f600 \ud800", "Where did Marie Curie work?", "\0", "der die das ** (["], 3)
    assert [[passage.title for passage in passages][:1] for passages in found] == [["Seine"], ["Marie Curie"], [], []]


@with_java
def test_contents_alone_may_be_stored(tmp_path: Path) -> None:
    passage = Passage("7", "É 中", "Emoji \U0001f600 in a text.")
    with closing(LuceneRetriever(build(tmp_path, [contents(passage)], "-storeContents"))) as opened:
        assert opened.sample(1, np.random.default_rng(0)) == [passage]


@with_java
def test_fields_by_name(tmp_path: Path) -> None:
    documents = [{**contents(p), "name": p.title, "body": p.text} for p in CORPUS]
    source = build(tmp_path, documents, "-storeRaw")
    with closing(LuceneRetriever(f"{source}?title=name&text=body&k1=1.2&b=0.75")) as opened:
        assert opened.search(["Tagus"], 1)[0][0].with_score(0.0) == CORPUS[5]
        assert (opened.fingerprint()["k1"], opened.fingerprint()["b"]) == (1.2, 0.75)
    with pytest.raises(CorpusError, match=r"fields \{'text': 'nothing'\} with documents that have"):
        LuceneRetriever(f"{source}?text=nothing")


@with_java
def test_what_does_not_fit_is_named(bare: str, index: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"store neither JSON nor contents; pass the corpus as a file"):
        LuceneRetriever(bare)
    with pytest.raises(IndexMismatchError, match="8 documents with a corpus of 3 passages"):
        LuceneRetriever(bare, passages=CORPUS[:3])
    others = [Passage(f"n{p.id}", p.title, p.text) for p in CORPUS]
    with (
        closing(LuceneRetriever(bare, passages=others)) as opened,
        pytest.raises(IndexMismatchError, match="the corpus has no passage '13'"),
    ):
        opened.search(["river"], 1)
    (tmp_path / "segments_1").write_bytes(b"no index")
    with pytest.raises(IndexMismatchError, match=r"Lucene can't open it .*; build it again"):
        LuceneRetriever(f"lucene:{tmp_path}")


@with_java
def test_the_fingerprint_changes_with_the_index(index: str, tmp_path: Path) -> None:
    other = build(tmp_path, [contents(p) for p in CORPUS], "-storeRaw")
    marks = set()
    for source in (index, index, f"{index}?b=0.5", other):
        with closing(LuceneRetriever(source)) as opened:
            marks.add(index_mark(opened.fingerprint()))
    assert len(marks) == 3


@with_java
def test_it_is_opened_by_name(index: str, tmp_path: Path) -> None:
    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    file = str(tmp_path / "corpus.jsonl")
    for corpus, name in ((index, "auto"), (index, index), (file, index)):
        with closing(open_retriever(corpus, name)) as opened:
            assert isinstance(opened, LuceneRetriever)
            assert opened.search(["Tagus"], 1)[0][0].title == "Lisbon"
    with closing(open_retriever(file, f"bm25+{index}")) as opened:
        assert isinstance(opened, HybridRetriever)
        assert len(opened.search(QUERIES, 3)) == len(QUERIES)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("lucene:{folder}", "holds no Lucene index; write it as lucene:FOLDER"),
        ("lucene:{folder}/nothing", "holds no Lucene index"),
        ("lucene:", "names no index"),
        ("lucene:{folder}?k1=high", "k1=high: k1 must be from 0 to 100, b from 0 to 1"),
        ("lucene:{folder}?b=1.5", "b=1.5: k1 must"),
        ("lucene:{folder}?k=1", r"option 'k=1'; each of \['b', 'contents', 'k1', 'text', 'title'\]"),
    ],
)
def test_bad_sources_are_named(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        LuceneRetriever(source.format(folder=tmp_path))


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segments_1").touch()
    monkeypatch.setitem(sys.modules, "pyserini.pyclass", None)
    with pytest.raises(RetrieverError, match=r"requires pyserini.*pip install 'igsearch\[lucene\]"):
        LuceneRetriever(f"lucene:{tmp_path}")
