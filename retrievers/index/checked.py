"""Vectors of any encoder, checked: the right shape, finite, not zero, of length one.

Every vector that is indexed or searched with passes through here. A vector that is not finite (a model whose
activations overflow in float16 gives infinity or NaN) or zero (a text without a token that the model knows) has no
neighbours, but an index would return some.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrievers.base import Passage
from retrievers.index.encoder import Encoder, EncoderError, Vectors, unit_length

REPAIR = (
    "the encoder can't represent it: use another dtype (float16 overflows in some models; --dtype float32 or bfloat16) "
    "or another encoder"
)


def passage_vectors(encoder: Encoder, passages: Sequence[Passage]) -> Vectors:
    """Unit vectors [passages, dimension]. Raises `EncoderError` that names the first passage without one."""
    vectors, usable = _checked(encoder, encoder.encode_passages(passages), len(passages))
    if not usable.all():
        bad = int(np.argmin(usable))
        passage = passages[bad]
        raise EncoderError(
            f"passage {passage.id!r} (title {passage.title[:80]!r}): its vector is {_kind(vectors[bad])}; {REPAIR}, or "
            "remove the passage from the corpus if it has no text"
        )
    return vectors


def query_vectors(encoder: Encoder, queries: Sequence[str]) -> tuple[Vectors, NDArray[np.bool_], dict[int, str]]:
    """Unit vectors [queries, dimension], which ones are, and what is wrong with those that are not finite, by position.

    A vector of zeros is that of a query without a token that the model knows, which is similar to no passage.
    Accents are composed (NFC), as in corpora.
    """
    composed = [unicodedata.normalize("NFC", query) for query in queries]
    vectors, usable = _checked(encoder, encoder.encode_queries(composed), len(queries))
    return (
        vectors,
        usable,
        {
            i: f"query {query[:80]!r}: its vector is {_kind(vectors[i])}; {REPAIR}"
            for i, query in enumerate(queries)
            if not np.isfinite(vectors[i]).all()
        },
    )


def _checked(encoder: Encoder, found: Vectors, count: int) -> tuple[Vectors, NDArray[np.bool_]]:
    vectors = np.asarray(found)
    if vectors.shape != (count, encoder.dimension) or vectors.dtype.kind != "f":
        name = getattr(encoder, "name", type(encoder).__name__)
        raise EncoderError(
            f"{name}: returned {vectors.dtype} of shape {vectors.shape} for {count} texts; an encoder of "
            f"{encoder.dimension} dimensions must return floats of shape ({count}, {encoder.dimension})"
        )
    return unit_length(vectors)


def _kind(vector: Vectors) -> str:
    finite = np.isfinite(vector)
    return "zero" if finite.all() else f"not finite ({(~finite).sum()} of {len(vector)} numbers)"
