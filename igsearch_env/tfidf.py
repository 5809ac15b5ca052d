"""Similarity of a text to others by TF-IDF, as scikit-learn's `TfidfVectorizer` with its default settings computes it.

Words are runs of at least two word characters, in lower case. With n texts, of which df hold a word:

    weight = count x (ln((1 + n) / (1 + df)) + 1),  vectors of length 1
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"(?u)\b\w\w+\b")


@lru_cache(maxsize=8_192)  # siblings find the same passages
def tfidf_cosines(text: str, others: tuple[str, ...]) -> list[float]:
    """Cosine between `text` and each of `others`, in [0, 1]; frequencies are those of these texts alone.

    0 for a text without words.
    """
    counts = [Counter(_WORD.findall(part.lower())) for part in (text, *others)]
    texts_with = Counter(word for words in counts for word in words)
    idf = {word: math.log((1 + len(counts)) / (1 + df)) + 1 for word, df in texts_with.items()}
    own, *vectors = [{word: count * idf[word] for word, count in words.items()} for words in counts]
    return [_cosine(own, vector) for vector in vectors]


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    lengths = math.hypot(*one.values()) * math.hypot(*other.values())
    product = sum(weight * other.get(word, 0.0) for word, weight in one.items())
    return min(1.0, product / lengths) if lengths else 0.0


def best_cosines(texts: Sequence[str], others: tuple[str, ...]) -> list[float]:
    """For each of `others`, the highest cosine with one of `texts`; 0 without texts."""
    return [max(column) for column in zip([0.0] * len(others), *(tfidf_cosines(t, others) for t in texts), strict=True)]
