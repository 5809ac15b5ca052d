"""Adopting an index file that somebody else built: linked into an index folder, after it was checked.

A file of faiss or hnswlib says little about what it holds. Before it is taken, its dimension, number of vectors, ids,
metric and the length of its vectors are read, and a sample of passages must find itself (`self_hits.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.base import IndexMismatchError, Passage
from retrievers.digests import file_digest
from retrievers.index.encoder import Encoder
from retrievers.index.engine import Engine, Vectors
from retrievers.index.faiss_engine import lists_of
from retrievers.index.self_hits import sample, verify
from retrievers.index.vector_index import VectorIndex, engine_of
from retrievers.reading import one_line


def adopt(
    path: Path,
    target: Path,
    spec: str,
    parameters: str,
    corpus: Sequence[Passage],
    encoder: Encoder,
    sha256: str = "",
    say: Callable[[str], None] = print,
) -> tuple[VectorIndex, dict[str, Any]]:
    """Link (or copy) an index file to `target`, check it, and return it with what a manifest records about it.

    Args:
        path: an index file of faiss or hnswlib.
        spec: its description, if it is known; a wrong one is replaced by what the file is.
        parameters: search parameters; "" for the default of its type.
        sha256: its published hash; "" if there is none.
        say: shows a line of text.

    Raises `IndexMismatchError` that says what was measured and what to do.
    """
    library = _library(path)
    found = file_digest(path)["sha256"]
    if found != (sha256.lower() or found):
        raise IndexMismatchError(f"{path}: its SHA-256 is {found}, --adopt-sha256 is {sha256}; download it again")
    say(f"{path}: SHA-256 {found}")
    target.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(path, target)
    if (spec == "hnswlib") != (library == "hnswlib"):
        spec = "hnswlib" if library == "hnswlib" else "Flat"
    engine = _load(path, target, spec, encoder.dimension)
    described = engine.describe()
    if not _agree(spec, described):
        say(f"{path}: it is {described}, not {spec}")
        engine = _load(path, target, described, encoder.dimension)  # which decides how it is memory-mapped
    if len(engine) != len(corpus):
        raise IndexMismatchError(
            f"{path}: {len(engine)} vectors for the {len(corpus)} passages of the corpus; pass the index of this corpus"
        )
    if problem := engine.problem():
        raise IndexMismatchError(f"{path}: {problem}; build an index from the vectors again")
    _check_ids(path, engine)
    rows, vectors = sample(corpus, encoder)
    _check_lengths(path, engine, vectors)
    index = VectorIndex(engine, parameters)
    recorded = verify(index, corpus, encoder, path, rows, vectors)
    say(
        f"{path}: {engine.spec}, {recorded['self_hit']:.1%} of the sampled passages find themselves "
        f"(mean inner product {recorded['self_similarity']:.3f}, written as {recorded['passages_written_as']})"
    )
    return index, recorded


def _library(path: Path) -> str:
    """The library that wrote a file, by its first bytes."""
    if path.is_dir():
        what = "an index folder already: search it with --corpus" if (path / "manifest.json").is_file() else "a folder"
        raise IndexMismatchError(f"{path}: {what}; --adopt takes the index file of faiss or hnswlib in it")
    if not path.is_file():
        raise IndexMismatchError(f"{path}: no such file; --adopt takes an index file of faiss or hnswlib")
    with open(path, "rb") as file:
        begin = file.read(8)
    if begin.startswith(b"IB"):
        raise IndexMismatchError(
            f"{path}: a binary index, which compares bits (Hamming distance); pass an index of float vectors"
        )
    if begin == bytes(8):  # hnswlib: the offset of its lowest level
        return "hnswlib"
    if begin[:1] == b"I":  # faiss: a code of four letters, such as IxFI
        return "faiss"
    raise IndexMismatchError(
        f"{path}: begins with {begin!r}, neither a file of faiss nor of hnswlib; --adopt takes an index file (of "
        "vectors, make one with faiss.write_index)"
    )


def _load(path: Path, target: Path, spec: str, dimension: int) -> Engine:
    try:
        engine = engine_of(spec).load(target, spec, dimension, mmap=True)
    except (RuntimeError, MemoryError) as error:
        reason = one_line(str(error).rpartition("Error: ")[2])
        raise IndexMismatchError(
            f"{path}: can't be read as an index ({reason}); download it again, or write it with a version of the "
            "library that is not newer than the one installed here"
        ) from error
    if engine.dimension != dimension:
        raise IndexMismatchError(
            f"{path}: {engine.dimension} dimensions, the encoder has {dimension}; pass the encoder that it was built "
            "with"
        )
    return engine


def _agree(spec: str, described: str) -> bool:
    """Whether a description names the same kind of index as the one made from the file."""
    graphs = ["HNSW" in text for text in (spec, described)]
    exact = spec != "Flat" or described in ("Flat", "IDMap,Flat", "IDMap2,Flat")
    return spec == described or (lists_of(spec) == lists_of(described) and graphs[0] == graphs[1] and exact)


def _check_ids(path: Path, engine: Engine) -> None:
    """Raise `IndexMismatchError` unless the ids of an index are the rows of the corpus, each once, in any order."""
    ids, count = engine.ids(), len(engine)
    if ids is None or np.array_equal(np.sort(ids), np.arange(count)):
        return
    raise IndexMismatchError(
        f"{path}: its ids go from {ids.min()} to {ids.max()}, {len(np.unique(ids))} different ones; they must be the "
        f"rows of the corpus, 0 to {count - 1}, each once; add its vectors again with the rows as ids (line of the "
        "corpus file, from 0)"
    )


def _check_lengths(path: Path, engine: Engine, vectors: Vectors) -> None:
    """Raise `IndexMismatchError` if the stored vectors are not of length one, which would change the ranking."""
    found = engine.lengths(vectors)
    if found is None or not len(found[0]):
        return
    lengths, tolerance = found
    if np.abs(lengths - 1).max() > tolerance or not np.isfinite(lengths).all():
        raise IndexMismatchError(
            f"{path}: its vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}, not 1, which ranks "
            "passages in another way; normalise them (faiss.normalize_L2) and build the index again"
        )
