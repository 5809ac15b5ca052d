"""The cut of what a search shows to some tokens. The environment knows no tokens, so a policy brings the cut along."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache

from algorithms.common.model.tokenizer import Tokens
from igsearch_env.errors import check_range

NEAR = 24  # characters that a cut may move back to end with a word
_HALF_WORD = re.compile(rf"(?<=\W)\w{{1,{NEAR}}}\Z")
# The beginning of a tag, as `protocol.py` leaves it in passages, without its end.
_HALF_TAG = re.compile(r"(?:<[\s/]*\w*)+\Z")


def observation_cut(tokens: Tokens, limit: int) -> Callable[[str], str]:
    """A function for `Protocol.cut`: a text, or its first part of at most `limit` tokens when encoded by itself.

    About the longest such part: it consists of whole characters, ends with a word where one ends nearby, and never in
    the middle of a tag. In an observation, the tags around it come on top with their own tokens, and a token may span
    text and tag.
    """
    check_range("env.max_observation_tokens", limit, 1)

    # The same passages are found, and drawn as random evidence, again and again.
    @lru_cache(maxsize=8_192)
    def cut(text: str) -> str:
        if len(tokens.encode(text)) <= limit:
            return text
        end = _until(tokens, text, limit)
        while True:
            part = _whole(text, end)
            # The last token of a part need not be one of the whole text.
            if len(tokens.encode(part)) <= limit:
                return part
            end = len(part) - 1

    return cut


def _until(tokens: Tokens, text: str, limit: int) -> int:
    """Characters before the first that needs token number `limit` (from 0)."""
    if getattr(tokens.tokenizer, "is_fast", False):
        encoding = tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = [start for start, _ in encoding["offset_mapping"]]
        # `encode` may count a token more, of text that stands after other text.
        return int(starts[limit]) if len(starts) > limit else len(text) - 1

    def last(ends: Sequence[int]) -> int:
        return ends[bisect_right(ends, limit, key=lambda end: len(tokens.encode(text[:end]))) - 1]

    # By words first: half a word may take more tokens than the whole.
    words = [0, *(word.end() for word in re.finditer(r"\S+", text)), len(text)]
    end = last(words)
    return last(range(end, words[words.index(end) + 1]))


def _whole(text: str, end: int) -> str:
    """The first `end` characters or a few less, without half a word or half a tag at their end."""
    part = text[:end]
    if re.match(r"\w\w", text[max(end - 1, 0) : end + 1]):
        part = _HALF_WORD.sub("", part)
    return _HALF_TAG.sub("", part).rstrip()
