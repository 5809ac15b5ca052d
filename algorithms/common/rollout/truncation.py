"""`ObservationCut`: truncates the passages of a search to a number of tokens; the environment has no tokenizer."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from algorithms.common.model.tokenizer import PolicyTokenizer
from igsearch_env.errors import check_range

NEAR = 24  # characters that a cut may move back to end with a word
_HALF_WORD = re.compile(rf"(?<=\W)\w{{1,{NEAR}}}\Z")
# The beginning of a tag, as protocols leave it in passages, without its end.
_HALF_TAG = re.compile(r"(?:<[\s/]*\w*)+\Z")


class ObservationCut:
    """For `Protocol.cut`: a text, or its first part of at most `limit` tokens when encoded by itself.

    The part is close to the longest one: it has whole characters only, ends with a word if one ends nearby, and never
    inside a tag. In an observation, the tags around it add their own tokens, and a token may span text and tag.

    Args:
        tokenizer: of the policy that reads the text.
        limit: tokens, at least 1.
    """

    def __init__(self, tokenizer: PolicyTokenizer, limit: int) -> None:
        check_range("limit", limit, 1)
        self.tokenizer = tokenizer
        self.limit = limit
        # The same passages are found, and drawn as random evidence, many times.
        self._cached = lru_cache(maxsize=8_192)(self._cut)

    def __call__(self, text: str) -> str:
        """The text, or its first part."""
        return self._cached(text)

    def _cut(self, text: str) -> str:
        if len(self.tokenizer.encode(text)) <= self.limit:
            return text
        end = _until(self.tokenizer, text, self.limit)
        while True:
            part = _whole(text, end)
            # The last token of a part need not be one of the whole text.
            if len(self.tokenizer.encode(part)) <= self.limit:
                return part
            end = len(part) - 1


def _until(tokenizer: PolicyTokenizer, text: str, limit: int) -> int:
    """Characters before the first that needs token number `limit` (from 0)."""
    starts = tokenizer.token_starts(text)
    if starts is not None:
        # `encode` may need one token more, since it encodes text that follows other text.
        return starts[limit] if len(starts) > limit else len(text) - 1

    def last(ends: Sequence[int]) -> int:
        return ends[bisect_right(ends, limit, key=lambda end: len(tokenizer.encode(text[:end]))) - 1]

    # By words first: a part of a word may take more tokens than the whole.
    words = [0, *(word.end() for word in re.finditer(r"\S+", text)), len(text)]
    end = last(words)
    return last(range(end, words[words.index(end) + 1]))


def _whole(text: str, end: int) -> str:
    """The first `end` characters or a few less, without a partial word or tag at their end."""
    part = text[:end]
    if re.match(r"\w\w", text[max(end - 1, 0) : end + 1]):
        part = _HALF_WORD.sub("", part)
    return _HALF_TAG.sub("", part).rstrip()
