"""Recall of an approximate index relative to exact search over the same vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrievers.corpus import DiskCorpus
from retrievers.index.checked import query_vectors
from retrievers.index.encoder import Encoder, EncoderError
from retrievers.index.engine import Ids, Shards, Vectors, blocks
from retrievers.index.vector_index import VectorIndex
from retrievers.random_streams import random_stream
from retrievers.reading import import_optional

RECALL_AT = (1, 3, 10)


def title_recall(
    index: VectorIndex,
    shards: Shards,
    corpus: DiskCorpus,
    encoder: Encoder,
    queries: int,
    progress: Callable[[int], None],
) -> dict[str, float]:
    """`recall@1`, `recall@3` and `recall@10` of an index, with the titles of random passages as queries."""
    rows = random_stream("queries that measure recall", 0).choice(len(corpus), min(queries, len(corpus)), replace=False)
    passages = [corpus[int(row)] for row in rows]
    vectors, usable, _ = query_vectors(encoder, [p.title or p.text[:60] for p in passages])
    vectors = vectors[usable]
    if not len(vectors):
        raise EncoderError("the encoder has no vector for any of the titles that measure recall; use another encoder")
    depths = [k for k in RECALL_AT if k <= len(corpus)]
    truth = exact_search(shards, vectors, depths[-1], progress)
    found = index.search(vectors, depths[-1])[1]
    return {f"recall@{k}": round(recall(found[:, :k], truth[:, :k]), 4) for k in depths}


def exact_search(shards: Shards, queries: Vectors, k: int, progress: Callable[[int], None] = lambda done: None) -> Ids:
    """Row numbers [queries, k] of the greatest inner products over all shards: the reference for recall."""
    faiss = import_optional("faiss", "dense", "a dense index")

    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    done = 0
    for block in blocks(shards):
        scores, ids = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, ids + done)
        done += len(block)
        progress(done)
    best.finalize()
    return np.asarray(best.I, np.int64)


def recall(found: Ids, truth: Ids) -> float:
    """Share of the true neighbours [queries, k] that are among those found [queries, k]."""
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, truth, strict=True)]))
