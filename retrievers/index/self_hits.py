"""Whether an index from elsewhere holds the vectors of this corpus, in its order, by this encoder.

A sample of passages is encoded and searched for: each must find itself. Where too few do, or their vectors are not
quite the stored ones, other ways to write a passage as text are tried, and the error says what was measured.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrievers.base import IndexMismatchError, Passage
from retrievers.index.checked import passage_vectors
from retrievers.index.encoder import Encoder
from retrievers.index.engine import Ids, Vectors
from retrievers.index.prefixes import PASSAGE_PREFIXES
from retrievers.index.vector_index import VectorIndex
from retrievers.random_streams import random_stream

ENOUGH = 0.95  # share of the sample that must find itself
SAMPLE, SECONDS = 256, 30.0  # passages of the sample; no more are encoded after so many seconds
TRIED = 16  # passages for every other way to write them
SAME = 0.998  # inner product of a passage's vector with the stored one that rounding explains
TIE = 1e-3  # vectors of a text and its copy differ by less

USUAL = "title, newline, text"
FORMATS: dict[str, Callable[[Passage], Passage]] = {  # an encoder writes title, newline, text
    USUAL: lambda p: p,
    "title in quotes, newline, text": lambda p: Passage(p.id, f'"{p.title}"', p.text),
    "title, space, text": lambda p: Passage(p.id, f"{p.title} {p.text}", ""),
    "text alone": lambda p: Passage(p.id, p.text, ""),
}


@dataclass(frozen=True)
class Hits:
    """How a sample found itself: the share that did, and the inner product with its own vector and the nearest."""

    share: float
    own: float  # mean over the passages that found themselves
    nearest: float
    shift: int  # most frequent difference between the row that was found and the passage's own
    shifted: float  # share of the sample with this difference

    @property
    def enough(self) -> bool:
        """Whether the index is taken for one of this corpus."""
        return self.share >= ENOUGH

    def better_than(self, other: Hits, margin: float) -> bool:
        """Whether more passages find themselves, or the same with vectors that are closer by at least `margin`."""
        if abs(self.share - other.share) > 0.02:
            return self.share > other.share
        return self.own > other.own + margin


@dataclass(frozen=True)
class Way:
    """One way to write a passage as text. `prefix`: None for that of the encoder."""

    format: str
    prefix: str | None

    def __str__(self) -> str:
        return self.format + (f", prefix {self.prefix!r}" if self.prefix is not None else "")


def verify(
    index: VectorIndex, corpus: Sequence[Passage], encoder: Encoder, path: object, rows: Ids, vectors: Vectors
) -> dict[str, Any]:
    """Check that passages find themselves, and return what a manifest records about it.

    Args:
        path: the file, for messages.
        rows, vectors: a `sample` of passages [passages] and their vectors [passages, dimension].

    Raises `IndexMismatchError` with the measured share, what is most likely wrong, and what to do.
    """
    hits = measure(index, corpus, rows, vectors)
    if hits.enough and hits.own >= SAME:
        return _recorded(hits, USUAL)
    said = f"{path}: {hits.share:.0%} of {len(rows)} sampled passages find themselves in it, {ENOUGH:.0%} must"
    if not hits.enough:
        _check_parameters(index, corpus, rows, vectors, said)
    few = measure(index, corpus, rows[:TRIED], vectors[:TRIED])
    way, best = _best_way(index, corpus, rows[:TRIED], encoder, few)
    if way == Way(USUAL, None) or best.share < 0.9:  # of so few; all are measured below
        way, best = Way(USUAL, None), hits
    if way.prefix is not None:
        raise IndexMismatchError(
            f"{path}: its vectors have an inner product of {best.own:.3f} with those of passages written as {way}, and "
            f"of {few.own:.3f} as this encoder writes them: the index was built with this prefix; pass "
            f"--passage-prefix {way.prefix!r}, and the query prefix that belongs to it as --query-prefix"
        )
    if way.format != USUAL:
        best = measure(index, corpus, rows, _encode(encoder, corpus, rows, way))
    if best.enough:
        return _recorded(best, way.format)
    raise IndexMismatchError(f"{said}; {_diagnosis(hits)}")


def measure(index: VectorIndex, corpus: Sequence[Passage], rows: Ids, vectors: Vectors) -> Hits:
    """Search for the vectors of passages. A copy of a passage, and a vector that ties with it, count as itself."""
    scores, found = index.search(vectors, min(5, len(index)))
    own = []
    for row, ranked, numbers in zip(rows, scores, found, strict=True):
        best = [int(n) for n, score in zip(numbers, ranked, strict=True) if n >= 0 and score >= ranked[0] - TIE]
        passage = corpus[int(row)]
        hit = int(row) in best or any((corpus[n].title, corpus[n].text) == (passage.title, passage.text) for n in best)
        if hit:
            own.append(float(ranked[0]))
    shift, times = Counter((found[:, 0] - rows).tolist()).most_common(1)[0]
    return Hits(
        share=len(own) / len(rows),
        own=float(np.mean(own)) if own else 0.0,
        nearest=float(scores[:, 0].mean()),
        shift=int(shift),
        shifted=times / len(rows),
    )


def sample(corpus: Sequence[Passage], encoder: Encoder) -> tuple[Ids, Vectors]:
    """Random rows and their vectors: as many as can be encoded in `SECONDS`, at least 32."""
    rng = random_stream("passages that verify an index from elsewhere", 0)
    rows = rng.choice(len(corpus), min(SAMPLE, len(corpus)), replace=False)
    parts: list[Vectors] = []
    start = time.perf_counter()
    for at in range(0, len(rows), 32):
        parts.append(passage_vectors(encoder, [corpus[int(row)] for row in rows[at : at + 32]]))
        if time.perf_counter() - start > SECONDS:
            break
    vectors = np.concatenate(parts)
    return rows[: len(vectors)], vectors


def _check_parameters(index: VectorIndex, corpus: Sequence[Passage], rows: Ids, vectors: Vectors, said: str) -> None:
    """Raise `IndexMismatchError` if passages find themselves once the index is searched thoroughly."""
    before, hardest = index.parameters, index.engine.hardest_parameters(index.spec)
    if not hardest or before == hardest:
        return
    index.set_parameters(hardest)
    hits = measure(index, corpus, rows, vectors)
    index.set_parameters(before)
    if hits.enough:
        raise IndexMismatchError(
            f"{said}; with {hardest} instead of {before or 'its own parameters'} it is {hits.share:.0%}: the index is "
            "of this corpus, but is searched too little; pass greater values as --parameters"
        )


def _ways(encoder: Encoder) -> Iterator[Way]:
    prefix = getattr(encoder, "passage_prefix", None)
    others = [other for other in PASSAGE_PREFIXES if other != prefix] if isinstance(prefix, str) else []
    for other in (None, *others):
        for format in FORMATS:
            if (format, other) != (USUAL, None):
                yield Way(format, other)


def _best_way(
    index: VectorIndex, corpus: Sequence[Passage], rows: Ids, encoder: Encoder, usual: Hits
) -> tuple[Way, Hits]:
    """The way to write passages whose vectors are closest to the stored ones, where `usual` is that of the encoder.

    Another prefix must be closer by more than another format, since it is an error and the format is not.
    """
    best = Way(USUAL, None), usual
    for way in _ways(encoder):
        hits = measure(index, corpus, rows, _encode(encoder, corpus, rows, way))
        if hits.better_than(best[1], 0.002 if way.prefix is None else 0.01):
            best = way, hits
    return best


def _encode(encoder: Encoder, corpus: Sequence[Passage], rows: Ids, way: Way) -> Vectors:
    if way.prefix is not None:
        encoder = copy.copy(encoder)
        encoder.passage_prefix = way.prefix  # type: ignore[attr-defined] # _ways: it has one
    return passage_vectors(encoder, [FORMATS[way.format](corpus[int(row)]) for row in rows])


def _diagnosis(hits: Hits) -> str:
    if hits.nearest >= 0.97 or hits.shifted >= ENOUGH:
        shift = f" (most are found {hits.shift:+d} rows away)" if hits.shifted > 0.5 and hits.shift else ""
        return (
            f"every vector is in the index (inner product {hits.nearest:.3f} with the nearest), but in another order "
            f"than the passages{shift}: pass the corpus file that the index was built from"
        )
    if hits.nearest >= 0.6:
        return (
            f"the nearest stored vectors have an inner product of {hits.nearest:.2f} on average: the vectors are in "
            "another order than the passages, or were made from other text, with another prefix, encoder, pooling or "
            "maximum length; pass the corpus file and the settings that the index was built with"
        )
    return (
        f"the nearest stored vectors have an inner product of {hits.nearest:.2f} on average, not about 1, and no other "
        f"prefix or way to join title and text that was tried comes to {ENOUGH:.0%}: the index was built with another "
        "encoder, pooling or maximum length, or from another corpus; pass those that it was built with"
    )


def _recorded(hits: Hits, format: str) -> dict[str, Any]:
    return {"self_hit": round(hits.share, 4), "self_similarity": round(hits.own, 4), "passages_written_as": format}
