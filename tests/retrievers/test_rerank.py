"""Reranking: the cross-encoder's order, whatever the depth, and the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing_retriever import FailsFor

from igsearch.testing.retriever_contract import CORPUS, QUERIES, RetrieverContract
from retrievers import BM25Retriever, QueryError, RerankingRetriever, RetrievalError, RetrieverError, open_retriever
from retrievers.corpus import write_corpus

BM25 = BM25Retriever(CORPUS)
Pairs = list[tuple[str, str]]


def shortest_first(pairs: Pairs) -> list[float]:
    """Scores short passages high."""
    return [-float(len(text)) for _, text in pairs]


class TestShallow(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> RerankingRetriever:
        return RerankingRetriever(BM25, shortest_first, depth=2)


class TestDeep(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> RerankingRetriever:
        return RerankingRetriever(BM25, shortest_first)


def test_the_scorer_orders_the_first_and_the_rest_follows() -> None:
    query = "the capital of France is Paris"
    before = [passage.id for passage in BM25.search([query], 8)[0]]
    (found,) = RerankingRetriever(BM25, shortest_first, depth=3).search([query], 8)
    lengths = {p.id: len(f"{p.title}\n{p.text}") for p in CORPUS}
    assert [p.id for p in found] == sorted(before[:3], key=lengths.__getitem__) + before[3:]
    assert [p.score for p in found[:3]] == [-float(lengths[p.id]) for p in found[:3]]
    assert {p.score for p in found[3:]} == {found[2].score}


def test_ties_keep_the_order_of_the_retriever() -> None:
    tied = RerankingRetriever(BM25, lambda pairs: [0.5] * len(pairs))
    assert [[p.id for p in found] for found in tied.search(QUERIES, 3)] == [
        [p.id for p in found] for found in BM25.search(QUERIES, 3)
    ]


def test_queries_that_failed_stay_failed() -> None:
    right = RerankingRetriever(BM25, shortest_first).search(["capital"], 2)
    with pytest.raises(RetrievalError, match="out of reach") as caught:
        RerankingRetriever(FailsFor("river"), shortest_first).search(["capital", "river"], 2)
    assert caught.value.results == [right[0], None]


def test_all_pairs_of_a_batch_are_scored_at_once() -> None:
    calls: list[Pairs] = []

    def noting(pairs: Pairs) -> list[float]:
        calls.append(pairs)
        return shortest_first(pairs)

    retriever = RerankingRetriever(BM25, noting, depth=4)
    retriever.search([*QUERIES, "zzz"], 1)
    (pairs,) = calls
    assert len(pairs) == sum(len(found) for found in BM25.search(QUERIES, 4))
    assert pairs[0][0] == QUERIES[0]
    assert retriever.search(["zzz", ""], 3) == [[], []]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            lambda pairs: [0.0],
            r"shape \(1,\) for \d+ pairs, 1 of them finite: it must return one finite number per pair",
        ),
        (lambda pairs: [[0.0, 1.0] for _ in pairs], r"shape \(\d+, 2\)"),
        (lambda pairs: [float("nan") for _ in pairs], r"0 of them finite"),
    ],
)
def test_scores_that_are_none_fail(scores: Any, message: str) -> None:
    with pytest.raises(RetrievalError, match=message):
        RerankingRetriever(BM25, scores).search(QUERIES, 2)


def test_what_decides_the_results_is_in_the_fingerprint() -> None:
    fingerprint = RerankingRetriever(BM25, shortest_first, depth=5).fingerprint()
    assert fingerprint == {
        "engine": "rerank",
        "passages": len(CORPUS),
        "model": "shortest_first",
        "depth": 5,
        "retriever": BM25.fingerprint(),
    }


@pytest.mark.parametrize("options", [{"depth": 0}, {"batch_size": 0}])
def test_bad_options_are_named(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(QueryError, match=rf"{name}={value}.*at least 1"):
        RerankingRetriever(BM25, shortest_first, **options)


def save_cross_encoder(folder: Path, outputs: int) -> str:
    """A cross-encoder of random weights, small enough for a test."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = sorted({word for p in CORPUS for word in f"{p.title} {p.text}".lower().replace(".", "").split()})
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=outputs,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_a_cross_encoder_scores_pairs(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = save_cross_encoder(tmp_path / "model", 1)
    write_corpus(CORPUS, tmp_path / "corpus.jsonl")
    retriever = open_retriever(str(tmp_path / "corpus.jsonl"), "bm25", folder)
    found = retriever.search(QUERIES, 3)
    for query, passages in zip(QUERIES, found, strict=True):
        candidates = BM25.search([query], len(CORPUS))[0]
        scores = CrossEncoder(folder).predict(
            [(query, f"{p.title}\n{p.text}") for p in candidates], show_progress_bar=False
        )
        order = np.argsort(-scores)[:3]
        assert [p.score for p in passages] == pytest.approx(scores[order].tolist(), abs=1e-6)
        assert [p.text for p in passages] == [
            candidates[i].text for i in order
        ]  # two passages are the same but for the id
    assert retriever.fingerprint()["model"] == "model"


def test_what_is_no_ranking_cross_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RetrieverError, match="two has 2 outputs: a cross-encoder for ranking has one"):
        RerankingRetriever(BM25, save_cross_encoder(tmp_path / "two", 2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RetrieverError, match=r"empty: can't be loaded as a cross-encoder \(.*\); pass a name"):
        RerankingRetriever(BM25, str(tmp_path / "empty"))
