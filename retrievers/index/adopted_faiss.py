"""What a faiss index from elsewhere is: its parts, its ids, its metric and the length of its vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from retrievers.index.engine import Ids, Vectors
from retrievers.reading import import_optional


def parts(index: Any) -> Iterator[Any]:
    """An index and those inside it, from the outside in, each of its own class."""
    faiss = import_optional("faiss", "dense", "a dense index")

    index = faiss.downcast_index(index)
    yield index
    for wrapper, field in (("IndexIDMap", "index"), ("IndexPreTransform", "index"), ("IndexRefine", "base_index")):
        if isinstance(index, getattr(faiss, wrapper)):
            yield from parts(getattr(index, field))


def describe(index: Any) -> str:
    """Its parts in the manner of a factory string: `IDMap,Flat`, `HNSW64`, `IVF4096,SQ8`."""
    return ",".join(_name(part) for part in parts(index))


def _name(index: Any) -> str:
    faiss = import_optional("faiss", "dense", "a dense index")

    name = re.sub("^Index", "", type(index).__name__)
    if isinstance(index, faiss.IndexIVF):
        quantizer = faiss.downcast_index(index.quantizer)
        graph = f"_HNSW{_links(quantizer)}" if isinstance(quantizer, faiss.IndexHNSW) else ""
        return f"IVF{index.nlist}{graph},{name.removeprefix('IVF') or 'Flat'}"
    if isinstance(index, faiss.IndexHNSW):
        stored = name.removeprefix("HNSW").removeprefix("Flat")
        return f"HNSW{_links(index)}" + (f",{stored}" if stored else "")
    return "Flat" if name in ("FlatIP", "FlatL2") else name


def _links(graph: Any) -> int:
    """Links of a vector in a graph above the lowest level, the number in its description."""
    return int(graph.hnsw.nb_neighbors(1))


def problem(index: Any) -> str:
    """Why its results can't be converted to inner products of unit vectors; "" if they can."""
    faiss = import_optional("faiss", "dense", "a dense index")

    metric = index.metric_type
    if metric not in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
        names = {value: name for name, value in vars(faiss).items() if name.startswith("METRIC_")}
        return f"its metric is {names.get(metric, metric)}; only inner product and L2 rank unit vectors alike"
    for part in parts(index):
        if type(part).__name__ in ("IndexLSH", "IndexIVFSpectralHash"):
            return f"{type(part).__name__} compares bits, and its scores can't be converted to inner products"
    return ""


def ids(index: Any) -> Ids | None:
    """The numbers that it returns for its vectors, in any order; None for 0, 1, 2, ..."""
    faiss = import_optional("faiss", "dense", "a dense index")

    for part in parts(index):
        if isinstance(part, faiss.IndexIDMap):
            return np.array(faiss.vector_to_array(part.id_map), np.int64)
        if isinstance(part, faiss.IndexIVF):
            lists: Any = part.invlists
            sizes = [(number, lists.list_size(number)) for number in range(part.nlist)]
            stored = [faiss.rev_swig_ptr(lists.get_ids(number), size).copy() for number, size in sizes if size]
            return np.concatenate(stored).astype(np.int64) if stored else np.zeros(0, np.int64)
    return None


def lengths(index: Any, queries: Vectors) -> tuple[Vectors, float] | None:
    """Lengths of the vectors nearest to some queries, and how far rounding may move one from 1; None if unknown."""
    faiss = import_optional("faiss", "dense", "a dense index")

    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexIDMap):  # it finds by ids but reconstructs by position
        inner = faiss.downcast_index(inner.index)
    try:
        _, rows, vectors = inner.search_and_reconstruct(queries, 1)
    except (RuntimeError, AttributeError, AssertionError):  # types that can't return their vectors
        return None
    found: Vectors = np.linalg.norm(vectors[:, 0][rows[:, 0] >= 0], axis=1)
    names = " ".join(type(part).__name__ for part in parts(inner))
    if re.search("PreTransform|PQ|Quantizer|RaBitQ|Lattice", names.replace("ScalarQuantizer", "").replace("SQ", "")):
        return found, 0.6
    return found, 0.1 if "ScalarQuantizer" in names or "SQ" in names else 0.02
