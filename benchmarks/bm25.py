"""BM25Retriever against bm25s with its best settings: nDCG@10 and supporting pages on questions with known pages.

    python -m benchmarks.bm25 --corpus corpus.jsonl.gz --questions nq.jsonl.gz popqa.jsonl.gz hotpotqa.jsonl.gz \\
        2wikimultihopqa.jsonl.gz musique.jsonl.gz

With `--lucene FOLDER`, an index of the same corpus by Anserini (contents: title, newline, text) is compared, too.

The data have the form of BEIR: a question is a query, the passages of its supporting pages are relevant.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bm25s
import numpy as np

from algorithms.common.base.command_line import parse_options
from algorithms.common.evaluation.retrieval import Quality, measure_retrieval
from igsearch_env.question_sets import evaluation_rows
from igsearch_env.questions import Question, load_questions
from retrievers import BM25Retriever, Passage, load_corpus, open_retriever
from retrievers.base import CorpusRetriever
from retrievers.random_streams import random_stream

# Settings of bm25s: its README's (Snowball stemmer, its stop words) and those of BEIR's comparisons.
PEERS: dict[str, tuple[float, float, bool, str | None]] = {
    "bm25s, k1 1.5, b 0.75, stemmed, stop words": (1.5, 0.75, True, "en"),
    "bm25s, k1 1.2, b 0.75, stemmed, stop words": (1.2, 0.75, True, "en"),
    "bm25s, k1 0.9, b 0.4, stemmed, stop words": (0.9, 0.4, True, "en"),
    "bm25s, k1 1.5, b 0.75": (1.5, 0.75, False, None),
    "bm25s, k1 1.2, b 0.75, stop words": (1.2, 0.75, False, "en"),
    "bm25s, k1 0.9, b 0.4": (0.9, 0.4, False, None),
}
LUCENE = ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75))  # Anserini stems (Porter) and leaves out Lucene's stop words
OURS: dict[str, dict[str, object]] = {
    "BM25Retriever": {},
    "BM25Retriever, stemmed": {"stemmer": "english"},
    "BM25Retriever, title_weight 1": {"title_weight": 1},
    "BM25Retriever, title_weight 2": {"title_weight": 2},
    "BM25Retriever, all words of a question": {"stopwords": "none"},
    "BM25Retriever, k1 1.2, b 0.75": {"k1": 1.2, "b": 0.75},
}


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    corpus: str
    """Corpus file."""
    questions: tuple[str, ...]
    """Question files with supporting titles."""
    lucene: str = ""
    """Folder of a Lucene index of the corpus; "" for none."""
    limit: int = 400
    """Maximum number of questions per data set, drawn at random."""
    seed: int = 0
    """Seed of the drawing."""


class Bm25sRetriever(CorpusRetriever):
    """bm25s as its documentation uses it, over title and text."""

    def __init__(self, passages: Sequence[Passage], k1: float, b: float, stemmed: bool, stopwords: str | None) -> None:
        stemmer = importlib.import_module("Stemmer").Stemmer("english") if stemmed else None
        self.passages = passages
        self.options: dict[str, Any] = {"stopwords": stopwords, "stemmer": stemmer}
        self.index = bm25s.BM25(k1=k1, b=b)
        texts = [f"{passage.title} {passage.text}" for passage in passages]
        self.index.index(bm25s.tokenize(texts, show_progress=False, **self.options), show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        words = bm25s.tokenize(list(queries), show_progress=False, return_ids=False, **self.options)
        rows = self.index.retrieve(words, k=k, show_progress=False, n_threads=1).documents
        return [[self.passages[int(row)] for row in found] for found in rows]


def main(args: Args) -> None:
    """Print one line per engine."""
    passages = load_corpus(args.corpus)
    questions = drawn([q for source in args.questions for q in load_questions(source)], args.limit, args.seed)
    names = list(dict.fromkeys(question.dataset for question in questions))
    print(f"{len(passages):,} passages, {len(questions):,} questions")
    print(f"| engine | nDCG@10 | pages@1 / 3 / 10 | pages@1 of {', '.join(names)} |\n|---|---:|---:|---:|")
    for name, settings in OURS.items():
        print(_row(name, measure_retrieval(questions, BM25Retriever(passages, **settings)), names), flush=True)  # type: ignore[arg-type]
    for name, peer in PEERS.items():
        print(_row(name, measure_retrieval(questions, Bm25sRetriever(passages, *peer)), names), flush=True)
    for k1, b in LUCENE if args.lucene else ():
        engine = open_retriever(args.corpus, f"lucene:{args.lucene}?k1={k1}&b={b}")
        print(_row(f"Lucene (Anserini), k1 {k1}, b {b}", measure_retrieval(questions, engine), names), flush=True)
        engine.close()


def drawn(questions: Sequence[Question], limit: int, seed: int) -> list[Question]:
    """At most `limit` questions of each data set, of those in the published splits whose pages are known."""
    known = [question for question in evaluation_rows(questions).questions if question.supporting_titles]
    rng = random_stream("questions that BM25 is measured with", seed)
    kept: list[Question] = []
    for name in dict.fromkeys(question.dataset for question in known):
        rows = [question for question in known if question.dataset == name]
        kept += [rows[int(i)] for i in rng.permutation(len(rows))[:limit]]
    return kept


def _row(name: str, quality: Quality, names: Sequence[str]) -> str:
    pages = np.mean([quality.pages[n] for n in names], axis=0)
    gain = float(np.mean([quality.ndcg[n][0] for n in names]))
    cells = " / ".join(f"{100 * value:.1f}" for value in pages)
    return f"| {name} | {gain:.4f} | {cells} | {', '.join(f'{100 * quality.pages[n][0]:.1f}' for n in names)} |"


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
