"""Encoders without a model: bags of hashed words."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from retrievers import Passage
from retrievers.index.encoder import Vectors


class WordEncoder:
    """Unit vectors that count words by their hash; counts how many passages it was asked for."""

    def __init__(self, dimension: int = 64, salt: str = "") -> None:
        self.dimension = dimension
        self.salt = salt
        self.encoded = 0

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        vectors = np.full((len(queries), self.dimension), 1e-3, np.float32)
        for vector, query in zip(vectors, queries, strict=True):
            for word in re.findall(r"\w+", query.lower()):
                vector[zlib.crc32((self.salt + word).encode()) % self.dimension] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        self.encoded += len(passages)
        return self.encode_queries([f"{p.title} {p.text}" for p in passages])

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "words", "salt": self.salt, "dimension": self.dimension}


class SpoiledEncoder(WordEncoder):
    """As a model that overflows: the vector of a text with the word `spoiled` holds `value` in every place."""

    def __init__(self, value: float, dimension: int = 64) -> None:
        super().__init__(dimension)
        self.value = value

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        vectors = super().encode_queries(queries)
        vectors[[i for i, query in enumerate(queries) if "spoiled" in query]] = self.value
        return vectors
