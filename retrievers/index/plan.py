"""What an index will cost: time, memory and disk, told before anything is built."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from retrievers.base import Passage, RetrieverError
from retrievers.index.encoder import Encoder
from retrievers.index.vector_index import BLOCK, bytes_per_vector, lists_of, training_rows

GIB = 2**30
LIBRARIES = 2.0 * GIB  # torch, an encoder of base size and its activations, as measured
# Of BM25, by measurement on Wikipedia passages: bytes of memory while building, and on disk, per character of text.
BM25_MEMORY, BM25_DISK = 12.0, 2.6
BM25_CHARACTERS_PER_SECOND = 3e6


class WontFitError(RetrieverError, ValueError):
    """An index that memory or disk can't hold."""


@dataclass(frozen=True)
class Plan:
    """Cost of an index that is to be built: seconds, bytes."""

    seconds: float
    memory: float  # at the most, while it is built
    disk: float
    loaded: float  # memory that searching touches, if all of it is read
    advice: str

    def lines(self, folder: Path) -> list[str]:
        """The estimate beside what there is, to be printed."""
        available, free = _present(folder)
        return [
            f"time    about {duration(self.seconds)}",
            f"memory  about {self.memory / GIB:.2f} GiB while building, {self.loaded / GIB:.2f} GiB when all of the "
            f"index is in memory; {available / GIB:.1f} GiB available",
            f"disk    about {self.disk / GIB:.2f} GiB; {free / GIB:.1f} GiB free",
        ]

    def check(self, folder: Path) -> None:
        """Raise `WontFitError` unless memory and disk suffice."""
        available, free = _present(folder)
        for name, needed, present in (("memory", self.memory, available), ("disk", self.disk, free)):
            if needed > present:
                raise WontFitError(
                    f"{folder}: about {needed / GIB:.2f} GiB of {name} needed, {present / GIB:.2f} GiB there; "
                    f"{self.advice}, or --force to try all the same"
                )


def _present(folder: Path) -> tuple[float, float]:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return float(psutil.virtual_memory().available), float(shutil.disk_usage(existing).free)


def plan_dense(passages: int, encoder: Encoder, spec: str, sample: Sequence[Passage], *, encoded: int) -> Plan:
    """Estimate a dense index.

    Args:
        passages: how many there are.
        encoder, spec: what will be used.
        sample: some of the passages; they are encoded to see how long it takes.
        encoded: how many have vectors already.
    """
    encoder.encode_passages(sample[:8])  # the first call prepares buffers
    start = time.perf_counter()
    encoder.encode_passages(sample)
    rate = len(sample) / (time.perf_counter() - start)
    index = passages * bytes_per_vector(spec, encoder.dimension)
    trained = 4.0 * training_rows(spec, passages) * encoder.dimension if lists_of(spec) else 0.0
    return Plan(
        seconds=(passages - encoded) / rate + _index_seconds(passages, encoder.dimension, spec),
        memory=LIBRARIES + index + trained + 8.0 * BLOCK * encoder.dimension + 16.0 * passages,
        disk=index + 2.0 * (passages - encoded) * encoder.dimension,  # float16 vectors beside the index
        loaded=index,
        advice="choose a smaller index (SQfp16 half of Flat, SQ8 a quarter, IVF4096,PQ48 a thirtieth)",
    )


def _index_seconds(passages: int, dimension: int, spec: str) -> float:
    """Rough: measured on two cores at 384 dimensions (docs/retrieval.md), scaled by dimension."""
    scale = dimension / 384
    if "HNSW" in spec.partition(",")[0].partition("_")[0] or spec == "hnswlib":
        return passages * 6e-5 * scale * float(np.log2(max(passages, 2)))
    lists = lists_of(spec)
    # Training runs about 10 rounds over 64 vectors a list; every vector then looks for its list.
    return scale * (passages * 5e-7 + (10 * 64 * lists + passages) * lists * 2e-8)


def plan_bm25(characters: int, passages: int) -> Plan:
    """Estimate a BM25 index of this much text."""
    return Plan(
        seconds=characters / BM25_CHARACTERS_PER_SECOND,
        memory=BM25_MEMORY * characters + 500.0 * passages,
        disk=BM25_DISK * characters,
        loaded=BM25_DISK * characters,
        advice="use a machine with more, or a smaller corpus",
    )


def duration(seconds: float) -> str:
    """Like `3 s`, `12 min`, `5.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
