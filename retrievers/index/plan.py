"""Estimate of the cost of an index before it is built: time, memory and disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from retrievers.base import Passage, RetrieverError
from retrievers.index.checked import passage_vectors
from retrievers.index.encoder import Encoder
from retrievers.index.engine import BLOCK
from retrievers.index.vector_index import engine_of

GIB = 2**30
LIBRARIES = 2.0 * GIB  # torch, an encoder of base size and its activations, as measured


class WontFitError(RetrieverError, ValueError):
    """An index that does not fit into memory or disk."""


@dataclass(frozen=True)
class Plan:
    """Estimated cost of an index, in seconds and bytes."""

    seconds: float
    memory: float  # peak while building
    disk: float
    loaded: float  # memory used by searches if the whole index is read
    advice: str

    def lines(self, folder: Path) -> list[str]:
        """The estimate and the available resources, as lines to print."""
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
                    f"{folder}: about {needed / GIB:.2f} GiB of {name} needed, {present / GIB:.2f} GiB available; "
                    f"{self.advice}, or --force to build anyway"
                )


def _present(folder: Path) -> tuple[float, float]:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return float(psutil.virtual_memory().available), float(shutil.disk_usage(existing).free)


def plan_dense(passages: int, encoder: Encoder, spec: str, sample: Sequence[Passage], *, encoded: int) -> Plan:
    """Estimate the cost of a dense index.

    Args:
        passages: number of passages.
        encoder, spec: encoder and description of the index.
        sample: some of the passages, which are encoded to measure the speed.
        encoded: number of passages that already have vectors.
    """
    passage_vectors(encoder, sample[:8])  # the first call prepares buffers
    start = time.perf_counter()
    passage_vectors(encoder, sample)
    rate = len(sample) / (time.perf_counter() - start)
    engine, dimension = engine_of(spec), encoder.dimension
    index = passages * engine.bytes_per_vector(spec, dimension)
    trained = engine.training_bytes(spec, passages, dimension)
    return Plan(
        seconds=(passages - encoded) / rate + engine.build_seconds(spec, passages, dimension),
        memory=LIBRARIES + index + trained + 8.0 * BLOCK * dimension + 16.0 * passages,
        disk=index + 2.0 * (passages - encoded) * dimension,  # float16 vectors beside the index
        loaded=index,
        advice="choose a smaller index (SQfp16 half of Flat, SQ8 a quarter, IVF4096,PQ48 a thirtieth)",
    )


def duration(seconds: float) -> str:
    """Format seconds as `3 s`, `12 min` or `5.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
