"""Interface of the vector index libraries behind `VectorIndex`, and their shared functions."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrievers.base import RetrieverError

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Shards = Sequence[NDArray[Any]]  # [vectors, dimension] each, any float type; may be memory-mapped

BLOCK = 65_536  # vectors converted to float32 at once
EF_CONSTRUCTION = 200  # candidates while a graph is built, in every library
GRAPH_PARAMETERS = "efSearch=128"  # candidates while a graph is searched, by default


class VectorIndexError(RetrieverError, ValueError):
    """An invalid description of an index or an invalid search parameter."""


class Engine(ABC):
    """One index of a library. `spec` is the user's description, such as `IVF4096,SQ8`."""

    def __init__(self, index: Any, spec: str) -> None:
        self.index = index
        self.spec = spec

    @classmethod
    @abstractmethod
    def build(cls, spec: str, shards: Shards, seed: int, progress: Callable[[int], None]) -> Engine:
        """Train if the type requires it, then add all vectors; `progress` gets the number of vectors added so far."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, spec: str, dimension: int, mmap: bool) -> Engine:
        """Open a file written by `save`. Raises `RuntimeError` for a file that is not such an index."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the index to one file."""

    @abstractmethod
    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Inner products [queries, k], best first, and row numbers, -1 if fewer than k were reached."""

    @abstractmethod
    def set_parameters(self, parameters: str) -> None:
        """Set search parameters. Raises `RuntimeError` or `ValueError` for those that the index does not have."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Dimension of the vectors."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of vectors."""

    # ---------------------------------------------------------------- an index that somebody else built

    @abstractmethod
    def describe(self) -> str:
        """A description made from the index itself."""

    @abstractmethod
    def problem(self) -> str:
        """Why its results can't be converted to inner products of unit vectors; "" if they can."""

    @abstractmethod
    def ids(self) -> Ids | None:
        """The numbers that it returns for its vectors, in any order; None for 0, 1, 2, ..."""

    @abstractmethod
    def lengths(self, queries: Vectors) -> tuple[Vectors, float] | None:
        """Lengths of the vectors nearest to some queries, and how far rounding may move one from 1; None if unknown."""

    @staticmethod
    @abstractmethod
    def hardest_parameters(spec: str) -> str:
        """Search parameters that find almost everything, slowly; "" for an index without parameters."""

    # ---------------------------------------------------------------- properties of a description, before it is built

    @staticmethod
    @abstractmethod
    def check(spec: str, dimension: int) -> None:
        """Raise `VectorIndexError` for an invalid description."""

    @staticmethod
    @abstractmethod
    def default_parameters(spec: str) -> str:
        """Default search parameters; "" for an index without such parameters."""

    @staticmethod
    @abstractmethod
    def bytes_per_vector(spec: str, dimension: int) -> float:
        """Memory of one vector in the index."""

    @staticmethod
    @abstractmethod
    def training_bytes(spec: str, vectors: int, dimension: int) -> float:
        """Memory of the vectors that the index is trained on."""

    @staticmethod
    @abstractmethod
    def build_seconds(spec: str, vectors: int, dimension: int) -> float:
        """Approximate time: measured on two cores at 384 dimensions (docs/retrieval.md), scaled by dimension."""


def add_in_blocks(add: Callable[[Vectors], object], shards: Shards, progress: Callable[[int], None]) -> None:
    """Call `add` with all rows, in blocks; `progress` gets the number of rows added so far."""
    done = 0
    for block in blocks(shards):
        add(block)
        done += len(block)
        progress(done)


def blocks(shards: Shards) -> Iterable[Vectors]:
    """The rows of all shards in order, as float32, in blocks."""
    for shard in shards:
        for start in range(0, len(shard), BLOCK):
            yield np.ascontiguousarray(shard[start : start + BLOCK], np.float32)


def graph_seconds(vectors: int, dimension: int) -> float:
    """Approximate time to build a graph, on two cores as above."""
    return vectors * 6e-5 * dimension / 384 * float(np.log2(max(vectors, 2)))


def reason(error: Exception) -> str:
    """A library's error message in one line, without the location in faiss's source."""
    return re.sub(r"^Error in .*?\.cpp:\d+: (Error: )?", "", str(error).strip().split("\n")[0])
