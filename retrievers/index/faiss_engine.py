"""Indexes of faiss, described by its factory strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.index import adopted_faiss
from retrievers.index.engine import (
    EF_CONSTRUCTION,
    GRAPH_PARAMETERS,
    Engine,
    Ids,
    Shards,
    VectorIndexError,
    Vectors,
    add_in_blocks,
    graph_seconds,
    reason,
)
from retrievers.random_streams import random_stream
from retrievers.reading import import_optional


class FaissEngine(Engine):
    """An index of faiss: exact, inverted lists, or a graph; memory-mapped if it is read from a file."""

    @classmethod
    def build(cls, spec: str, shards: Shards, seed: int, progress: Callable[[int], None]) -> FaissEngine:
        index = make_faiss(spec, shards[0].shape[1])
        if spec.startswith("HNSW"):
            index.hnsw.efConstruction = EF_CONSTRUCTION  # faiss's default of 40 lowers recall
        if not index.is_trained:
            _train(index, spec, shards, seed)
        add_in_blocks(index.add, shards, progress)
        return cls(index, spec)

    @classmethod
    def load(cls, path: Path, spec: str, dimension: int, mmap: bool) -> FaissEngine:
        faiss = import_optional("faiss", "dense", "a dense index")

        # IVF lists and all other indexes are memory-mapped by different code.
        flag = (faiss.IO_FLAG_MMAP if "IVF" in spec else faiss.IO_FLAG_MMAP_IFC) if mmap else 0
        return cls(faiss.read_index(str(path), flag), spec)

    def save(self, path: Path) -> None:
        faiss = import_optional("faiss", "dense", "a dense index")

        faiss.write_index(self.index, str(path))

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        faiss = import_optional("faiss", "dense", "a dense index")

        scores, ids = self.index.search(queries, k)
        if self.index.metric_type == faiss.METRIC_L2:  # of an index from elsewhere: squared distances of unit vectors
            scores = 1 - scores / 2
        return scores, ids

    def set_parameters(self, parameters: str) -> None:
        faiss = import_optional("faiss", "dense", "a dense index")

        space: Any = faiss.ParameterSpace()
        space.set_index_parameters(self.index, parameters)

    @property
    def dimension(self) -> int:
        return int(self.index.d)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def describe(self) -> str:
        return adopted_faiss.describe(self.index)

    def problem(self) -> str:
        return adopted_faiss.problem(self.index)

    def ids(self) -> Ids | None:
        return adopted_faiss.ids(self.index)

    def lengths(self, queries: Vectors) -> tuple[Vectors, float] | None:
        return adopted_faiss.lengths(self.index, queries)

    @staticmethod
    def hardest_parameters(spec: str) -> str:
        if lists := lists_of(spec):
            return f"nprobe={lists}"
        return "efSearch=2048" if "HNSW" in spec else ""

    @staticmethod
    def check(spec: str, dimension: int) -> None:
        make_faiss(spec, dimension)

    @staticmethod
    def default_parameters(spec: str) -> str:
        """A sixteenth of the lists, at least 8; 128 candidates in a graph."""
        if lists := lists_of(spec):
            return f"nprobe={min(lists, max(lists // 16, 8))}"
        return GRAPH_PARAMETERS if "HNSW" in spec else ""

    @staticmethod
    def bytes_per_vector(spec: str, dimension: int) -> float:
        graph = re.match(r"HNSW(\d*)(?:,(.*))?$", spec)
        if graph:
            links = 8 * int(graph[1] or 32) + 16
            return links + FaissEngine.bytes_per_vector(graph[2] or "Flat", dimension)
        size = int(make_faiss(spec, dimension).sa_code_size())
        return size + 8 if lists_of(spec) else size

    @staticmethod
    def training_bytes(spec: str, vectors: int, dimension: int) -> float:
        return 4.0 * training_rows(spec, vectors) * dimension if lists_of(spec) else 0.0

    @staticmethod
    def build_seconds(spec: str, vectors: int, dimension: int) -> float:
        if "HNSW" in spec.partition(",")[0].partition("_")[0]:
            return graph_seconds(vectors, dimension)
        lists = lists_of(spec)
        # Training runs about 10 rounds over 64 vectors per list; every vector is then assigned to a list.
        return dimension / 384 * (vectors * 5e-7 + (10 * 64 * lists + vectors) * lists * 2e-8)


def make_faiss(spec: str, dimension: int) -> Any:
    """An empty faiss index. Raises `VectorIndexError` for a string that its factory rejects."""
    faiss = import_optional("faiss", "dense", "a dense index")

    try:
        return faiss.index_factory(dimension, spec, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise VectorIndexError(
            f"index={spec!r} for {dimension} dimensions: {reason(error)}; use hnswlib or a faiss factory string "
            "such as Flat, SQfp16, HNSW32, IVF4096,SQ8 or IVF65536_HNSW32,PQ48"
        ) from error


def lists_of(spec: str) -> int:
    """Number of lists of an IVF index, 0 for others."""
    found = re.search(r"IVF(\d+)", spec)
    return int(found[1]) if found else 0


def training_rows(spec: str, total: int) -> int:
    """Rows to train on: 64 per list (faiss warns below 39), at least 65,536 if there are as many."""
    return min(total, max(64 * lists_of(spec), 65_536))


def _train(index: Any, spec: str, shards: Shards, seed: int) -> None:
    """Train on random rows."""
    total = sum(map(len, shards))
    wanted = training_rows(spec, total)
    if total < lists_of(spec):
        raise VectorIndexError(
            f"index={spec!r} with {total} vectors: it needs at least one vector per list; use fewer lists"
        )
    rows = np.sort(random_stream("vectors that train an index", seed).choice(total, wanted, replace=False))
    starts = np.cumsum([0, *map(len, shards)])
    parts = [
        np.asarray(shard[rows[(rows >= start) & (rows < start + len(shard))] - start], np.float32)
        for shard, start in zip(shards, starts, strict=False)
    ]
    index.train(np.concatenate(parts))
