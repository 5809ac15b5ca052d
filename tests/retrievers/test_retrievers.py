"""Every retriever keeps the contract; BM25 finds what is relevant and reopens only what it wrote."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from igsearch_env import load_questions
from retrievers import (
    BM25Retriever,
    CorpusError,
    DictionaryRetriever,
    DiskCorpus,
    IndexMismatchError,
    Passage,
    QueryError,
    RetrieverError,
    load_corpus,
)
from retrievers.corpus import write_corpus


def ids(passages: list[Passage]) -> list[str]:
    """Their ids, in order."""
    return [passage.id for passage in passages]


def close(retriever: BM25Retriever) -> None:
    """Close the corpus of a loaded retriever."""
    assert isinstance(retriever.passages, DiskCorpus)
    retriever.passages.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved index of `CORPUS`."""
    BM25Retriever(CORPUS).save(tmp_path / "index")
    return tmp_path / "index"


class LexicalContract(RetrieverContract):
    """What also holds where a passage must share a word with the query."""

    def test_never_padded(self, retriever: BM25Retriever) -> None:
        found = retriever.search(["Tagus", "zzz qqq", "Tagus zzz", "!?"], len(CORPUS))
        assert [ids(passages) for passages in found] == [["15"], [], ["15"], []]


class TestBM25(LexicalContract):
    @pytest.fixture
    def retriever(self) -> BM25Retriever:
        return BM25Retriever(CORPUS)


@pytest.mark.parametrize("mmap", [True, False], ids=["mmap", "in memory"])
class TestSavedAndLoadedBM25(LexicalContract):
    @pytest.fixture
    def retriever(self, folder: Path, mmap: bool) -> Iterator[BM25Retriever]:
        loaded = BM25Retriever.load(folder, mmap=mmap)
        yield loaded
        close(loaded)

    def test_finds_the_same_as_before(self, retriever: BM25Retriever) -> None:
        assert retriever.search(QUERIES, 5) == BM25Retriever(CORPUS).search(QUERIES, 5)


class TestDictionary(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> DictionaryRetriever:
        found = BM25Retriever(CORPUS).search(QUERIES, len(CORPUS))
        return DictionaryRetriever({"everything": CORPUS} | dict(zip(QUERIES, found, strict=True)))

    def test_unknown_query_finds_nothing(self, retriever: DictionaryRetriever) -> None:
        assert retriever.search(["Capital of France"], 3) == [[]]

    def test_needs_a_passage(self) -> None:
        with pytest.raises(CorpusError, match="no passage"):
            DictionaryRetriever({"river": []})


@pytest.mark.parametrize(
    ("query", "best"),
    [("capital of France", "11"), ("Marie Curie", "14"), ("BERLIN", "12"), ("herring", "16"), ("river Seine", "13")],
)
def test_bm25_finds_the_relevant_passage_first(query: str, best: str) -> None:
    assert BM25Retriever(CORPUS).search([query], 3)[0][0].id == best


def test_bm25_reads_titles() -> None:
    retriever = BM25Retriever([Passage("1", "Karith", "A city on a river."), Passage("2", "Lurm", "A shallow sea.")])
    assert ids(retriever.search(["Karith"], 2)[0]) == ["1"]


def test_bm25_breaks_ties_by_position_for_every_k() -> None:
    retriever = BM25Retriever([Passage(str(i), "Twin", "the same words") for i in range(40)])
    for k in (1, 2, 5, 17, 40):
        assert ids(retriever.search(["same words"], k)[0]) == [str(i) for i in range(k)]


SHOWS = [
    Passage("who", "Doctor Who", "A series about a traveller in time."),
    Passage(
        "house", "Doctor House", "A series about a hospital, as the doctor of the title is not a traveller of the who."
    ),
]


@pytest.mark.parametrize(
    ("query", "stopwords", "found"),
    [
        ("the", "english", ["house"]),  # nothing else is left of it
        ("to be or not to be the", "english", ["house"]),
        ("what was the name of the hospital", "english", ["house"]),
        ("what was the series of the who", "english", ["who", "house"]),
        ("what was the title that Who has", "english", ["house", "who"]),
        ("doctor who", "english", ["who", "house"]),
        ("doctor who", "none", ["who", "house"]),
    ],
)
def test_bm25_leaves_stop_words_out_of_questions_only(query: str, stopwords: str, found: list[str]) -> None:
    assert ids(BM25Retriever(SHOWS, stopwords=stopwords).search([query], 2)[0]) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Henry V", "Henry V"),
        ("Henry VIII", "Henry VIII"),
        ("X", "X"),
        ("C++", "C++"),
        ("C#", "C#"),
        ("C", "C"),
        ("Malcolm X's", "Malcolm X"),
        ("10000 metres", "10,000 metres"),
        ("Beyonce\u0301", "Beyoncé"),
        ("beyonce", "Beyoncé"),
        ("€", "Euro €"),
    ],
)
def test_bm25_finds_short_names_and_other_spellings(query: str, found: str) -> None:
    kings, names = ["Henry VIII", "Henry V", "Henry IV"], ["X", "Malcolm X", "10,000 metres", "Beyoncé", "Euro €"]
    titles = [*kings, *names, "C++", "C#", "C"]
    retriever = BM25Retriever([Passage(title, title, "some words about it") for title in titles])
    assert retriever.search([query], 3)[0][0].id == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": -1.0}, "k1=-1.0: must be a number of at least 0"),
        ({"k1": float("nan")}, "k1=nan: must be"),
        ({"b": 1.5}, "b=1.5: must be a number from 0 to 1"),
        ({"b": True}, "b=True: must be a number from 0 to 1"),
        ({"k1": "high"}, "k1='high': must be a number of at least 0"),
        ({"title_weight": 1.5}, "title_weight=1.5: must be a whole number of at least 1"),
        ({"title_weight": 0}, "title_weight=0: must be a whole number of at least 1"),
        ({"min_length": 0}, "min_length=0: must be a whole number of at least 1"),
        ({"min_length": True}, "min_length=True: must be a whole number of at least 1"),
        ({"stopwords": "en"}, "stopwords='en': must be one of none, english"),
        ({"stemmer": "englisch"}, "stemmer='englisch': must be one of none, .*english"),
    ],
)
def test_bm25_refuses_settings(settings: dict[str, Any], message: str) -> None:
    if "stemmer" in settings:
        pytest.importorskip("Stemmer", reason="PyStemmer is not installed")
    with pytest.raises(RetrieverError, match=message):
        BM25Retriever(CORPUS, **settings)


def test_bm25_stems_words_if_asked() -> None:
    pytest.importorskip("Stemmer", reason="PyStemmer is not installed")
    passages = [Passage("1", "", "she was running"), Passage("2", "", "a river")]
    assert BM25Retriever(passages).search(["runs"], 2) == [[]]
    assert ids(BM25Retriever(passages, stemmer="english").search(["runs"], 2)[0]) == ["1"]


def test_bm25_counts_the_words_of_titles() -> None:
    passages = [Passage("title", "Ostue", "one of many names"), Passage("text", "Names", "one Ostue of many")]
    assert ids(BM25Retriever(passages).search(["Ostue"], 2)[0]) == ["title", "text"]
    equal = BM25Retriever(passages, title_weight=1).search(["Ostue"], 2)[0]
    assert equal[0].score == equal[1].score


def test_bm25_ignores_short_words_in_passages_and_queries_if_asked() -> None:
    passages = [Passage("one letter", "", "Ostue was a b c d"), Passage("none", "", "Ostue was")]
    assert BM25Retriever(passages).search(["a"], 2)[0][0].id == "one letter"
    equal = BM25Retriever(passages, min_length=2)
    assert equal.search(["a", "d b"], 2) == [[], []]
    scores = [passage.score for passage in equal.search(["Ostue a"], 2)[0]]
    assert len(scores) == 2
    assert scores[0] == scores[1]  # of the same length
    assert BM25Retriever(passages, min_length=4).search(["was"], 2) == [[]]


def test_bm25_keeps_a_passage_without_words() -> None:
    retriever = BM25Retriever([*CORPUS, Passage("18", "?", "!")])
    assert len(retriever) == len(CORPUS) + 1
    assert retriever.search(["", "?", "!"], 3) == [[], [], []]


@pytest.mark.parametrize("passages", [[], [Passage("1", "?", "!")]], ids=["no passage", "no word"])
def test_bm25_refuses_a_corpus_with_nothing_to_index(passages: list[Passage]) -> None:
    with pytest.raises(CorpusError):
        BM25Retriever(passages)


def test_saving_keeps_settings(tmp_path: Path) -> None:
    pytest.importorskip("Stemmer", reason="PyStemmer is not installed")
    saved = BM25Retriever(
        CORPUS, k1=np.float32(2.0), b=0.1, stopwords="none", stemmer="english", title_weight=2, min_length=3
    )
    saved.save(tmp_path / "deep" / "index")
    loaded = BM25Retriever.load(str(tmp_path / "deep" / "index"))
    assert loaded.fingerprint() == saved.fingerprint()
    assert loaded.search([*QUERIES, "the", "of", "a"], 5) == saved.search([*QUERIES, "the", "of", "a"], 5)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["index"]
    close(loaded)


def test_saving_refuses_an_existing_folder(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="index exists"):
        BM25Retriever(CORPUS[:2]).save(folder)
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_loading_refuses_a_folder_without_manifest(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IndexMismatchError, match=rf"{name}.*manifest\.json"):
        BM25Retriever.load(tmp_path / name)


def test_loading_refuses_another_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(IndexMismatchError, match="format 99"):
        BM25Retriever.load(folder)


@pytest.mark.parametrize(
    "corpus",
    [CORPUS[:5], [*CORPUS, Passage("18", "More", "One more.")], [*CORPUS[:-1], Passage("17", "Cod", "A larger fish.")]],
    ids=["shorter", "longer", "other text"],
)
def test_loading_refuses_a_mismatching_corpus(folder: Path, corpus: list[Passage]) -> None:
    write_corpus(corpus, folder / "corpus.jsonl")
    with pytest.raises(IndexMismatchError, match=re.escape(str(folder))):
        close(BM25Retriever.load(folder))
    gc.collect()  # a file left open would be reported here


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k1": 5.0}, r"made with k1=0\.9 and b=0\.4, manifest\.json records k1=5\.0 and b=0\.4; correct the manifest"),
        ({"k1": "high"}, "k1='high': must be a number of at least 0"),
        ({"title_weight": 1.5}, r"title_weight=1\.5: must be a whole number"),
    ],
)
def test_loading_refuses_edited_settings(folder: Path, settings: dict[str, Any], said: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"] |= settings
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IndexMismatchError, match=rf"{re.escape(str(folder))}.*{said}"):
        BM25Retriever.load(folder)


def test_a_title_of_several_lines_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"passage '1': its title 'Kar\\nith' has several lines"):
        BM25Retriever([Passage("1", "Kar\nith", "A town.")]).save(tmp_path / "index")


def test_bad_top_k_is_named_by_its_own_name() -> None:
    with pytest.raises(QueryError, match=rf"top_k=99 .*from 1 to {len(CORPUS)}"):
        BM25Retriever(CORPUS).check_count(99, "top_k")


def test_bm25_finds_supporting_passages_of_real_questions(mini_data: Path) -> None:
    retriever = BM25Retriever(load_corpus(mini_data / "corpus.jsonl"))
    assert len(retriever) == 5000
    questions = load_questions(mini_data / "hotpotqa.jsonl")
    found = retriever.search([question.text for question in questions], 10)
    hits = sum(
        bool({passage.title for passage in passages} & set(question.metadata["supporting_titles"]))
        for question, passages in zip(questions, found, strict=True)
    )
    assert hits >= 32  # of 40
