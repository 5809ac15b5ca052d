"""Retrievers made of others: fusion by rank, recording and replaying. The contract holds for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from failing_retriever import FailsFor

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import (
    BM25Retriever,
    CorpusError,
    DictionaryRetriever,
    HybridRetriever,
    IndexMismatchError,
    Passage,
    QueryError,
    RecordingRetriever,
    ReplayRetriever,
    RetrievalError,
    Retriever,
    corpus_hash,
)


class TestHybrid(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> HybridRetriever:
        return HybridRetriever([BM25Retriever(CORPUS), BM25Retriever(CORPUS, k1=2.0, b=0.9)])


class TestRecording(RetrieverContract):
    @pytest.fixture
    def retriever(self, tmp_path: Path) -> Iterator[RecordingRetriever]:
        recording = RecordingRetriever(BM25Retriever(CORPUS), tmp_path / "record.jsonl", corpus_hash(CORPUS))
        yield recording
        recording.close()


# ---------------------------------------------------------------- fusion


def ranked(name: str, order: str) -> DictionaryRetriever:
    """A retriever that answers "q" in this order of one-letter ids."""
    everything = [Passage(id, id, name) for id in "abcd"]
    found = [passage for id in order for passage in everything if passage.id == id]
    return DictionaryRetriever({"q": found, "others": everything})


def test_scores_are_summed_reciprocal_ranks() -> None:
    (found,) = HybridRetriever([ranked("x", "abc"), ranked("y", "cd")], constant=60).search(["q"], 4)
    expected = {"a": 1 / 61, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62}
    assert {p.id: p.score for p in found} == pytest.approx(expected)
    assert [p.id for p in found] == ["c", "a", "b", "d"]  # b and d tie: the first retriever's stands first


def test_weights_and_depth() -> None:
    pair = [ranked("x", "abc"), ranked("y", "dcb")]
    assert HybridRetriever(pair, weights=[1, 3]).search(["q"], 1)[0][0].id == "c"
    shallow = HybridRetriever(pair, depth=1).search(["q"], 4)[0]
    assert [p.id for p in shallow] == ["a", "d"]


@pytest.mark.parametrize("first", [BM25Retriever(CORPUS), FailsFor("Paris")], ids=["one fails", "both fail"])
def test_only_queries_that_all_retrievers_answered_have_results(first: Retriever) -> None:
    hybrid = HybridRetriever([first, FailsFor("river")])
    right = HybridRetriever([BM25Retriever(CORPUS)] * 2).search(["capital", "Paris"], 2)
    assert hybrid.search(["capital"], 2) == right[:1]
    with pytest.raises(RetrievalError, match="out of reach") as caught:
        hybrid.search(["capital", "river", "Paris"], 2)
    assert caught.value.results == [right[0], None, None if isinstance(first, FailsFor) else right[1]]
    with pytest.raises(RetrievalError) as caught:
        hybrid.search(["river"], 2)
    assert caught.value.results is None


@pytest.mark.parametrize(
    "retrievers", [[], [BM25Retriever(CORPUS)], [BM25Retriever(CORPUS), BM25Retriever(CORPUS[:3])]]
)
def test_it_wants_two_over_one_corpus(retrievers: list[Retriever]) -> None:
    with pytest.raises(CorpusError, match="two or more over one corpus"):
        HybridRetriever(retrievers)


@pytest.mark.parametrize("options", [{"depth": 0}, {"constant": -1}, {"weights": [1]}, {"weights": [1, 0]}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        HybridRetriever([BM25Retriever(CORPUS)] * 2, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- record and replay


def played(retriever: Retriever) -> tuple[list[list[Passage]], list[Passage], float]:
    """Searches, random passages, and what the generator says afterwards."""
    rng = np.random.default_rng(7)
    found = retriever.search(QUERIES, 3) + retriever.search(QUERIES[:2], 1)
    return found, retriever.sample(2, rng), float(rng.random())


def test_a_replay_is_what_was_recorded(tmp_path: Path) -> None:
    recording = RecordingRetriever(BM25Retriever(CORPUS), tmp_path / "r.jsonl", "corpus-1")
    first = played(recording)
    recording.close()
    replay = ReplayRetriever(tmp_path / "r.jsonl", "corpus-1")
    assert played(replay) == first == played(BM25Retriever(CORPUS))
    assert len(replay) == len(CORPUS)


def test_a_record_grows_by_what_is_new_alone_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for _ in range(2):
        recording = RecordingRetriever(BM25Retriever(CORPUS), path, "corpus-1")
        played(recording)
        recording.close()
    assert len(path.read_text().splitlines()) == 1 + len(QUERIES) + 2 + 1
    path.write_bytes(path.read_bytes() + b'{"query": "torn')
    recording = RecordingRetriever(BM25Retriever(CORPUS), path, "corpus-1")
    recording.search(["river"], 2)
    recording.close()
    assert [json.loads(line) for line in path.read_text().splitlines()][-1]["query"] == "river"


def test_what_was_not_recorded_is_an_error(tmp_path: Path) -> None:
    recording = RecordingRetriever(BM25Retriever(CORPUS), tmp_path / "r.jsonl", "corpus-1")
    recording.search(["river"], 2)
    recording.close()
    replay = ReplayRetriever(tmp_path / "r.jsonl")
    with pytest.raises(QueryError, match=r"'k': 3.*not recorded"):
        replay.search(["river"], 3)
    with pytest.raises(QueryError, match="not recorded"):
        replay.sample(2, np.random.default_rng(0))


def test_records_of_another_corpus_or_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    RecordingRetriever(BM25Retriever(CORPUS), path, "corpus-1").close()
    with pytest.raises(IndexMismatchError, match=r"corpus-1.*corpus-2"):
        ReplayRetriever(path, "corpus-2")
    with pytest.raises(IndexMismatchError, match="another path"):
        RecordingRetriever(BM25Retriever(CORPUS), path, "corpus-2")
    with pytest.raises(IndexMismatchError, match="no such file"):
        ReplayRetriever(tmp_path / "nothing")
    for content, message in [('{"format": 9}\n', "format 9"), ("", "not a record"), ("<html>\n", "not a record")]:
        path.write_text(content)
        with pytest.raises(IndexMismatchError, match=message):
            ReplayRetriever(path)
