"""Vector indexes behind one small class: inner-product search by faiss (any factory string) or hnswlib.

    Flat            exact, 4 bytes a dimension; the reference
    SQfp16, SQ8     exact search over vectors rounded to 2 or 1 bytes a dimension
    HNSW32          a graph over whole vectors, plus about 270 bytes a vector; HNSW32,SQ8 over rounded ones
    IVF4096,SQ8     lists of near vectors, of which `nprobe` are read; IVF65536_HNSW32,PQ48 for tens of millions
    hnswlib         a graph by hnswlib (M 32, ef_construction 200); not memory-mapped

The faiss wiki, "The index factory", has the rest of the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrievers.base import IndexMismatchError, RetrieverError

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Shards = Sequence[NDArray[Any]]  # [vectors, dimension] each, any float type; may be memory-mapped

HNSWLIB = "hnswlib"
HNSWLIB_M = 32
EF_CONSTRUCTION = 200  # of both kinds of graph
TIES = 8  # results asked for beyond k: copies of a passage at the last place are told apart by their row
BLOCK = 65_536  # vectors converted to float32 at once


class VectorIndexError(RetrieverError, ValueError):
    """A description of an index, or a search parameter, that can't be used."""


class VectorIndex:
    """Rows of vectors, searched by inner product. Made by `build` or `load`.

    `spec`: a faiss factory string, or `hnswlib`. `parameters`: how hard to search, e.g. `nprobe=32` (IVF) or
    `efSearch=128` (HNSW, hnswlib); "" for `default_parameters(spec)`.
    """

    def __init__(self, engine: Any, spec: str, dimension: int, parameters: str = "") -> None:
        self.engine = engine
        self.spec = spec
        self.dimension = dimension
        self.parameters = parameters or default_parameters(spec)
        self._ef = 0  # of hnswlib, which holds it beside the index
        if self.parameters:
            self._set(self.parameters)

    def _set(self, parameters: str) -> None:
        try:
            if self.spec == HNSWLIB:
                name, _, value = parameters.partition("=")
                if name != "efSearch":
                    raise RuntimeError(f"could not set parameter {name}")
                self._ef = int(value)
                self.engine.set_ef(self._ef)
            else:
                import faiss

                space: Any = faiss.ParameterSpace()
                space.set_index_parameters(self.engine, parameters)
        except (RuntimeError, ValueError) as error:
            raise VectorIndexError(
                f"search parameters {parameters!r} for an index {self.spec!r}: {_reason(error)}; "
                "use nprobe=N for IVF, efSearch=N for HNSW and hnswlib, none for exact ones"
            ) from error

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Scores [queries, k], best first, and row numbers, -1 where fewer than k were reached.

        Of equal scores the lower row stands first, so that a result depends neither on k nor on the engine's heap.
        """
        if queries.shape[1] != self.dimension:
            raise IndexMismatchError(
                f"queries of {queries.shape[1]} dimensions, the index has {self.dimension}: "
                "use the encoder that the index was built with"
            )
        scores, ids = self._search(queries, min(k + TIES, len(self)))
        order = np.lexsort((ids, -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)

    def _search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        if self.spec != HNSWLIB:
            scores, ids = self.engine.search(queries, k)
            return scores, ids
        if k > self._ef:
            self._ef = k
            self.engine.set_ef(k)
        rows, distances = self.engine.knn_query(queries, k)
        return 1 - distances, rows.astype(np.int64)

    def __len__(self) -> int:
        return int(self.engine.get_current_count() if self.spec == HNSWLIB else self.engine.ntotal)

    def save(self, path: Path) -> None:
        """Write the index to one file."""
        if self.spec == HNSWLIB:
            self.engine.save_index(str(path))
        else:
            import faiss

            faiss.write_index(self.engine, str(path))

    @classmethod
    def load(cls, path: Path, spec: str, dimension: int, parameters: str = "", *, mmap: bool = True) -> VectorIndex:
        """Open what `save` wrote. With `mmap`, a faiss index stays on disk and is read as it is searched."""
        try:
            if spec == HNSWLIB:
                import hnswlib

                engine = hnswlib.Index("ip", dimension)
                engine.load_index(str(path))
                return cls(engine, spec, dimension, parameters)
            import faiss

            # IVF lists and everything else are mapped by different code.
            flag = (faiss.IO_FLAG_MMAP if "IVF" in spec else faiss.IO_FLAG_MMAP_IFC) if mmap else 0
            engine = faiss.read_index(str(path), flag)
        except RuntimeError as error:
            raise IndexMismatchError(
                f"{path}: can't be read as an index {spec!r} ({_reason(error)}); build it again"
            ) from error
        if engine.d != dimension:
            raise IndexMismatchError(
                f"{path}: {engine.d} dimensions, its encoder has {dimension}; build it again with this encoder"
            )
        return cls(engine, spec, dimension, parameters)

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
        """Train where the kind needs it, then add all vectors; `progress` is told how many are in."""
        dimension = shards[0].shape[1]
        if spec == HNSWLIB:
            import hnswlib

            engine = hnswlib.Index("ip", dimension)
            total = sum(map(len, shards))
            engine.init_index(total, M=HNSWLIB_M, ef_construction=EF_CONSTRUCTION, random_seed=100 + seed)
            add = engine.add_items
        else:
            engine = make_faiss(spec, dimension)
            if spec.startswith("HNSW"):
                engine.hnsw.efConstruction = EF_CONSTRUCTION  # faiss begins with 40, which costs recall
            if not engine.is_trained:
                _train(engine, spec, shards, seed)
            add = engine.add
        done = 0
        for block in blocks(shards):
            add(block)
            done += len(block)
            progress(done)
        return cls(engine, spec, dimension, parameters)


def make_faiss(spec: str, dimension: int) -> Any:
    """An empty faiss index. Raises `VectorIndexError` for a string that its factory can't read."""
    import faiss

    try:
        return faiss.index_factory(dimension, spec, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise VectorIndexError(
            f"index={spec!r} for {dimension} dimensions: {_reason(error)}; use hnswlib or a faiss factory string "
            "such as Flat, SQfp16, HNSW32, IVF4096,SQ8 or IVF65536_HNSW32,PQ48"
        ) from error


def _reason(error: Exception) -> str:
    """What faiss says, without the place in its source."""
    return re.sub(r"^Error in .*?\.cpp:\d+: (Error: )?", "", str(error).strip().split("\n")[0])


def _train(engine: Any, spec: str, shards: Shards, seed: int) -> None:
    """Train on random rows."""
    total = sum(map(len, shards))
    wanted = training_rows(spec, total)
    if total < lists_of(spec):
        raise VectorIndexError(
            f"index={spec!r} with {total} vectors: it needs at least one vector a list; use fewer lists"
        )
    rows = np.sort(np.random.default_rng([seed, 5]).choice(total, wanted, replace=False))
    starts = np.cumsum([0, *map(len, shards)])
    parts = [
        np.asarray(shard[rows[(rows >= start) & (rows < start + len(shard))] - start], np.float32)
        for shard, start in zip(shards, starts, strict=False)
    ]
    engine.train(np.concatenate(parts))


def training_rows(spec: str, total: int) -> int:
    """Rows to train on: 64 a list (39 is where faiss starts to warn), at least 65,536 where there are as many."""
    return min(total, max(64 * lists_of(spec), 65_536))


def blocks(shards: Shards) -> Iterable[Vectors]:
    """The rows of all shards in order, as float32, some at a time."""
    for shard in shards:
        for start in range(0, len(shard), BLOCK):
            yield np.ascontiguousarray(shard[start : start + BLOCK], np.float32)


def lists_of(spec: str) -> int:
    """Number of lists of an IVF index, 0 for others."""
    found = re.search(r"IVF(\d+)", spec)
    return int(found[1]) if found else 0


def is_exact(spec: str) -> bool:
    """Whether every stored vector is compared, unrounded."""
    return spec == "Flat"


def default_parameters(spec: str) -> str:
    """A sixteenth of the lists of an IVF index, at least 8; 128 candidates in a graph."""
    if lists := lists_of(spec):
        return f"nprobe={min(lists, max(lists // 16, 8))}"
    return "efSearch=128" if spec == HNSWLIB or "HNSW" in spec else ""


def bytes_per_vector(spec: str, dimension: int) -> float:
    """Memory of one vector in an index, as far as its description tells."""
    graph = re.match(r"HNSW(\d*)(?:,(.*))?$", spec)
    if spec == HNSWLIB:
        return 4 * dimension + 8 * HNSWLIB_M + 20
    if graph:
        links = 8 * int(graph[1] or 32) + 16
        return links + bytes_per_vector(graph[2] or "Flat", dimension)
    size = int(make_faiss(spec, dimension).sa_code_size())
    return size + 8 if lists_of(spec) else size


def exact_search(shards: Shards, queries: Vectors, k: int, progress: Callable[[int], None] = lambda done: None) -> Ids:
    """Row numbers [queries, k] of the greatest inner products over all shards: what recall is measured against."""
    import faiss

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
    """Share of the true neighbours [queries, k] that stand among those found [queries, k]."""
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, truth, strict=True)]))
