"""Vector indexes behind one small class: inner-product search by faiss (any factory string) or hnswlib.

    Flat            exact, 4 bytes per dimension; the reference
    SQfp16, SQ8     exact search over vectors rounded to 2 or 1 bytes per dimension
    HNSW32          a graph over whole vectors, plus about 270 bytes a vector; HNSW32,SQ8 over rounded ones
    IVF4096,SQ8     lists of nearby vectors, `nprobe` of which are searched; IVF65536_HNSW32,PQ48 for tens of millions
    hnswlib         a graph by hnswlib (M 32, ef_construction 200); not memory-mapped

The page "The index factory" of the faiss wiki documents all factory strings.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from retrievers.base import IndexMismatchError
from retrievers.index.engine import Engine, Ids, Shards, VectorIndexError, Vectors, reason
from retrievers.index.faiss_engine import FaissEngine
from retrievers.index.hnswlib_engine import HnswlibEngine

_DIMENSIONS = (768, 1024, 384, 840, 960)  # of encoders, or with many divisors
ENGINES: dict[str, type[Engine]] = {"hnswlib": HnswlibEngine}  # every other description is a factory string of faiss
TIES = 8  # results requested beyond k: copies of a passage at rank k are ordered by their row


def engine_of(spec: str) -> type[Engine]:
    """The engine class for a description."""
    return ENGINES.get(spec, FaissEngine)


def check_spec(spec: str) -> None:
    """Raise `VectorIndexError` for a description that no dimension of an encoder makes valid.

    The dimension itself is known only after the encoder has been loaded.
    """
    if spec not in ENGINES and not spec.startswith("HNSW"):  # before faiss is needed
        _suggest(spec, ("bm25", "hnswlib"), 0.7)
    rejected: VectorIndexError | None = None
    for dimension in _DIMENSIONS:
        try:
            engine_of(spec).check(spec, dimension)
            return
        except VectorIndexError as error:
            rejected = error
    _suggest(spec, ("hnswlib", "Flat", "SQfp16", "HNSW32", "IVF4096,SQ8"), 0.6)
    if rejected is not None:
        raise rejected


def _suggest(spec: str, known: Sequence[str], cutoff: float) -> None:
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(spec.lower(), names, n=1, cutoff=cutoff)
    if near:
        raise VectorIndexError(f"index={spec!r}: no such index; did you mean {names[near[0]]!r}?")


def is_exact(spec: str) -> bool:
    """Whether a search compares every vector, unrounded."""
    return spec == "Flat"


class VectorIndex:
    """Rows of vectors, searched by inner product. Created by `build` or `load`.

    `spec`: a faiss factory string, or `hnswlib`. `parameters`: search parameters, e.g. `nprobe=32` (IVF) or
    `efSearch=128` (HNSW, hnswlib); "" for the engine's `default_parameters`.
    """

    def __init__(self, engine: Engine, parameters: str = "") -> None:
        self.engine = engine
        self.spec = engine.spec
        self.dimension = engine.dimension
        self.parameters = parameters or engine.default_parameters(engine.spec)
        self.set_parameters(self.parameters)

    def set_parameters(self, parameters: str) -> None:
        """Set search parameters; "" leaves them as they are."""
        self.parameters = parameters
        if not parameters:
            return
        try:
            self.engine.set_parameters(parameters)
        except (RuntimeError, ValueError) as error:
            raise VectorIndexError(
                f"search parameters {self.parameters!r} for an index {self.spec!r}: {reason(error)}; "
                "use nprobe=N for IVF, efSearch=N for HNSW and hnswlib, none for exact ones"
            ) from error

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Scores [queries, k], best first, and row numbers, -1 if fewer than k were reached.

        On equal scores the lower row comes first, so that a result depends neither on k nor on the engine's heap.
        """
        if queries.shape[1] != self.dimension:
            raise IndexMismatchError(
                f"queries of {queries.shape[1]} dimensions, the index has {self.dimension}: "
                "use the encoder that the index was built with"
            )
        scores, ids = self.engine.search(queries, min(k + TIES, len(self)))
        if ids.size and not -1 <= ids.min() <= ids.max() < len(self):
            raise IndexMismatchError(
                f"the index returns numbers from {ids.min()} to {ids.max()}, but has {len(self)} vectors: its ids are "
                "not the rows of the corpus; build it again, or adopt it with build_index"
            )
        if not np.isfinite(scores[ids >= 0]).all():
            raise IndexMismatchError(
                "the index returns scores that are not finite: some of its vectors are; build it again"
            )
        order = np.lexsort((ids, -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)

    def __len__(self) -> int:
        return len(self.engine)

    def save(self, path: Path) -> None:
        """Write the index to one file."""
        self.engine.save(path)

    @classmethod
    def load(cls, path: Path, spec: str, dimension: int, parameters: str = "", *, mmap: bool = True) -> VectorIndex:
        """Open a file written by `save`. With `mmap`, a faiss index stays on disk and is read on demand."""
        try:
            engine = engine_of(spec).load(path, spec, dimension, mmap)
        except (RuntimeError, MemoryError) as error:
            raise IndexMismatchError(
                f"{path}: can't be read as an index {spec!r} ({reason(error)}); build it again"
            ) from error
        if engine.dimension != dimension:
            raise IndexMismatchError(
                f"{path}: {engine.dimension} dimensions, its encoder has {dimension}; build it again with this encoder"
            )
        return cls(engine, parameters)

    @classmethod
    def build(
        cls,
        spec: str,
        shards: Shards,
        *,
        parameters: str = "",
        seed: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> VectorIndex:
        """Train if the type requires it, then add all vectors; `progress` gets the number of vectors added."""
        return cls(engine_of(spec).build(spec, shards, seed, progress), parameters)
