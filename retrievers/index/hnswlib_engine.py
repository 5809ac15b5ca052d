"""Indexes of hnswlib: a graph over whole vectors, held in memory."""

from __future__ import annotations

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

LINKS = 32  # per vector; hnswlib's M


class HnswlibEngine(Engine):
    """The graph of hnswlib, described as `hnswlib`."""

    def __init__(self, index: Any, spec: str) -> None:
        super().__init__(index, spec)
        self._ef = 0  # efSearch, which hnswlib keeps outside of the index

    @classmethod
    def build(cls, spec: str, shards: Shards, seed: int, progress: Callable[[int], None]) -> HnswlibEngine:
        import hnswlib

        index = hnswlib.Index("ip", shards[0].shape[1])
        total = sum(map(len, shards))
        index.init_index(total, M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=100 + seed)
        add_in_blocks(index.add_items, shards, progress)
        return cls(index, spec)

    @classmethod
    def load(cls, path: Path, spec: str, dimension: int, mmap: bool) -> HnswlibEngine:
        import hnswlib

        index = hnswlib.Index("ip", dimension)
        index.load_index(str(path))
        return cls(index, spec)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        if k > self._ef:  # it must not be below k
            self._ef = k
            self.index.set_ef(k)
        rows, distances = self.index.knn_query(queries, k)
        return 1 - distances, rows.astype(np.int64)

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
