"""Indexes of hnswlib: a graph over whole vectors, held in memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.index.engine import (
    EF_CONSTRUCTION,
    GRAPH_PARAMETERS,
    Engine,
    Ids,
    Shards,
    Vectors,
    add_in_blocks,
    graph_seconds,
)
from retrievers.reading import import_optional

LINKS = 32  # per vector; hnswlib's M


class HnswlibEngine(Engine):
    """The graph of hnswlib, described as `hnswlib`."""

    def __init__(self, index: Any, spec: str) -> None:
        super().__init__(index, spec)
        self._ef = 0  # efSearch, which hnswlib keeps outside of the index

    @classmethod
    def build(cls, spec: str, shards: Shards, seed: int, progress: Callable[[int], None]) -> HnswlibEngine:
        hnswlib = import_optional("hnswlib", "dense", "a dense index")

        index = hnswlib.Index("ip", shards[0].shape[1])
        total = sum(map(len, shards))
        index.init_index(total, M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=100 + seed)
        add_in_blocks(index.add_items, shards, progress)
        return cls(index, spec)

    @classmethod
    def load(cls, path: Path, spec: str, dimension: int, mmap: bool) -> HnswlibEngine:
        hnswlib = import_optional("hnswlib", "dense", "a dense index")

        # A file holds neither its dimension nor its metric; for unit vectors all three metrics rank alike.
        index = hnswlib.Index("ip", stored_dimension(path))
        index.load_index(str(path))
        return cls(index, spec)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        if k > self._ef:  # it must not be below k
            self._ef = k
            self.index.set_ef(k)
        reachable = k
        while True:
            try:
                rows, distances = self.index.knn_query(queries, reachable)
                break
            except RuntimeError:  # a graph may not connect all vectors: fewer than k are reached
                reachable //= 2
                if not reachable:
                    raise
        missing = ((0, 0), (0, k - reachable))
        scores = np.pad(1 - distances, missing, constant_values=np.finfo(np.float32).min)
        return scores, np.pad(rows.astype(np.int64), missing, constant_values=-1)

    def set_parameters(self, parameters: str) -> None:
        name, _, value = parameters.partition("=")
        if name != "efSearch":
            raise RuntimeError(f"could not set parameter {name}")
        self._ef = int(value)
        self.index.set_ef(self._ef)

    @property
    def dimension(self) -> int:
        return int(self.index.dim)

    def __len__(self) -> int:
        return int(self.index.get_current_count())

    def describe(self) -> str:
        return "hnswlib"

    def problem(self) -> str:
        deleted = 0
        for label in self.index.get_ids_list():
            try:
                self.index.unmark_deleted(label)
                deleted += 1
            except RuntimeError:  # of a label that is not deleted
                continue
        return f"{deleted} of its labels are marked as deleted, so that their passages are never found" * bool(deleted)

    def ids(self) -> Ids | None:
        return np.array(self.index.get_ids_list(), np.uint64).astype(np.int64)

    def lengths(self, queries: Vectors) -> tuple[Vectors, float] | None:
        labels, _ = self.index.knn_query(queries, 1)
        vectors = np.asarray(self.index.get_items(labels[:, 0]), np.float32)
        return np.linalg.norm(vectors, axis=1), 0.02

    @staticmethod
    def hardest_parameters(spec: str) -> str:
        return "efSearch=2048"

    @staticmethod
    def check(spec: str, dimension: int) -> None:
        """Accepts everything: `hnswlib` has no variants."""

    @staticmethod
    def default_parameters(spec: str) -> str:
        return GRAPH_PARAMETERS

    @staticmethod
    def bytes_per_vector(spec: str, dimension: int) -> float:
        return 4 * dimension + 8 * LINKS + 20

    @staticmethod
    def training_bytes(spec: str, vectors: int, dimension: int) -> float:
        return 0.0

    @staticmethod
    def build_seconds(spec: str, vectors: int, dimension: int) -> float:
        return graph_seconds(vectors, dimension)


def stored_dimension(path: Path) -> int:
    """The dimension of the vectors in a file. Raises `RuntimeError` if its header is not that of hnswlib."""
    with open(path, "rb") as file:
        header = file.read(96)
        size = file.seek(0, 2)
    if len(header) < 96:
        raise RuntimeError(f"{size} bytes, too few for an index of hnswlib")
    # Begin of level 0, capacity, vectors, bytes of one, place of its label and of its vector.
    begin, capacity, vectors, each, label, place = struct.unpack("<6Q", header[:48])
    if begin or not place < label < each or (label - place) % 4 or vectors > capacity or vectors * each > size:
        raise RuntimeError("its header is not that of an index of hnswlib")
    return int(label - place) // 4
