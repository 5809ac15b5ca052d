"""In-process search engines: overhead of our BM25 over bm25s, and speed-up of graph indexes over exact search.

    python -m benchmarks.retrieval                                   synthetic corpus and vectors
    python -m benchmarks.retrieval --corpus corpus.jsonl --questions nq.jsonl hotpotqa.jsonl
    python -m benchmarks.retrieval --vectors indexes/minilm/vectors --queries queries.npy

`--vectors`: a folder of vector shards saved by `retrievers.build_index`; `--queries`: an array [queries, dimension].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
from rich.console import Console

from algorithms.common.base.command_line import parse_options
from benchmarks.measure import Line, interleaved, print_section, ratio, seconds
from benchmarks.scale import made_up_vectors
from igsearch_env.questions import load_questions
from igsearch_env.world.generator import generate_world
from retrievers import BM25Retriever, Passage, load_corpus
from retrievers.analysis import words
from retrievers.index.engine import Shards, Vectors
from retrievers.index.recall import exact_search, recall
from retrievers.index.vector_index import VectorIndex

BATCH, TOP_K = 64, 3
PASSAGES, VECTORS = 100_000, 200_000  # synthetic ones
GRAPHS = ("hnswlib", "HNSW32")


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    corpus: Path | None = None
    """Corpus file; None: a synthetic corpus."""
    questions: tuple[Path, ...] = ()
    """Question files used as queries."""
    vectors: Path | None = None
    """Folder of vectors; None: synthetic vectors."""
    queries: Path | None = None
    """File of an array of query vectors."""
    repeats: int = 7
    """Rounds of each measurement; the median is reported."""


def lines(repeats: int = 7) -> list[Line]:
    """Both comparisons on synthetic data."""
    return [*bm25_lines(*_invented(), repeats), *graph_lines(*_made_up(), repeats)]


def bm25_lines(passages: Sequence[Passage], questions: Sequence[str], repeats: int) -> list[Line]:
    """BM25Retriever compared with bm25s with the same tokeniser and parameters: time per batch, and scores found."""
    ours = BM25Retriever(passages, title_weight=1, stopwords="none")
    theirs = bm25s.BM25(k1=0.9, b=0.4)
    theirs.index([words(f"{p.title} {p.text}") for p in passages], show_progress=False)
    batches = [list(questions[start : start + BATCH]) for start in range(0, len(questions) - BATCH + 1, BATCH)]

    def direct(batch: list[str]) -> np.ndarray:
        rows: np.ndarray = theirs.retrieve(
            [words(query) for query in batch], k=TOP_K, show_progress=False, n_threads=1
        ).documents
        return rows

    times = interleaved(
        {
            "ours": lambda: [ours.search(batch, TOP_K) for batch in batches],
            "bm25s": lambda: [direct(batch) for batch in batches],
        },
        repeats,
    )
    scores = best = 0.0
    for batch in batches:
        for query, found, rows in zip(batch, ours.search(batch, TOP_K), direct(batch), strict=True):
            of_all = theirs.get_scores(words(query))
            scores += sum(passage.score for passage in found)
            best += float(of_all[rows].sum())
    asked = len(batches) * BATCH
    where = f"{len(passages):,} passages, {asked} questions, top {TOP_K}"
    return [
        Line(
            f"BM25Retriever over bm25s, batches of {BATCH}",
            ratio(times["ours"], times["bm25s"]),
            target=1.15,
            at_most=True,
            detail=f"{asked / min(times['ours']):.0f} against {asked / min(times['bm25s']):.0f} questions/s; {where}",
        ),
        Line(
            "score of what BM25Retriever finds over what bm25s finds",
            scores / best,
            target=0.99999,
            detail="sum of the scores of the first passages: 1 if no better passage is missed",
        ),
    ]


def graph_lines(shards: Shards, queries: Vectors, repeats: int) -> list[Line]:
    """Graph indexes compared with exact search over the same vectors: recall, and queries per second one at a time."""
    flat = VectorIndex.build("Flat", shards)
    truth = exact_search(shards, queries, TOP_K)
    made: list[Line] = []
    for spec in GRAPHS:
        built: list[VectorIndex] = []
        taken = seconds(lambda spec=spec, built=built: built.append(VectorIndex.build(spec, shards)))  # type: ignore[misc]
        graph = built[0]
        few = queries[:200]

        def one_by_one(index: VectorIndex, asked: Vectors = few) -> Callable[[], object]:
            return lambda: [index.search(query[None], TOP_K) for query in asked]

        times = interleaved({"flat": one_by_one(flat), "graph": one_by_one(graph)}, repeats)
        name, where = f"{spec} ({graph.parameters})", f"{len(flat):,} vectors of {flat.dimension} dimensions"
        made += [
            Line(
                f"{name}: recall@{TOP_K}",
                recall(graph.search(queries, TOP_K)[1], truth),
                "",
                0.98,
                detail=f"{len(queries)} queries; {where}; built in {taken:.0f} s",
            ),
            Line(
                f"{name}: queries/s over those of exact search, one at a time",
                ratio(times["flat"], times["graph"]),
                target=10,
                detail=f"{len(few) / min(times['graph']):.0f} against {len(few) / min(times['flat']):.0f} queries/s",
            ),
        ]
    return made


def _invented() -> tuple[Sequence[Passage], list[str]]:
    world = generate_world(passages=PASSAGES)
    return world.passages, [question.text for question in world.questions["test"]]


def _made_up() -> tuple[Shards, Vectors]:
    drawn = list(made_up_vectors(VECTORS + 1_000))
    rows = np.concatenate(drawn)
    return [rows[:VECTORS]], rows[VECTORS:].astype(np.float32)


def main(args: Args) -> None:
    """Measure and print."""
    passages, questions = _invented() if args.corpus is None else (load_corpus(args.corpus), [])
    questions = questions or [question.text for path in args.questions for question in load_questions(path)]
    console = Console(width=180)
    print_section(console, "bm25", bm25_lines(passages, questions, args.repeats), 0)
    if args.vectors is None or args.queries is None:
        shards, queries = _made_up()
    else:
        shards = [np.load(path, mmap_mode="r") for path in sorted(args.vectors.glob("*.npy"))]
        queries = np.load(args.queries).astype(np.float32)
    print_section(console, "graphs", graph_lines(shards, queries, args.repeats), 0)


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
