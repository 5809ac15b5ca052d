"""`token_span`: which tokens contain some characters of a text."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # what a tokenizer decodes bytes to that are no character


def token_span(text_of: Callable[[Sequence[int]], str], ids: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Tokens that contain any part of characters [start, end) of `text_of(ids)`, as [first, last).

    By bisection over decoded prefixes, which works for any tokenizer.
    """
    if end <= start:
        return 0, 0
    text = text_of(ids)
    counts = range(len(ids) + 1)
    first = bisect_right(counts, start, key=lambda count: _characters(text_of, ids, text, count)[1]) - 1
    last = bisect_left(counts, end, key=lambda count: _characters(text_of, ids, text, count)[0])
    return first, last


def _characters(text_of: Callable[[Sequence[int]], str], ids: Sequence[int], text: str, count: int) -> tuple[int, int]:
    """How many characters of `text` the first `count` tokens contain completely, and how many at least in part.

    If the tokens are cut inside a character, a byte-level tokenizer decodes its bytes to one `BROKEN` character,
    and a tokenizer with byte fallback does so for all characters in that run of bytes. The nearest clean cuts then
    give the bounds.
    """

    def clean(count: int) -> int | None:
        """Number of characters before a cut; None if it is inside a character."""
        prefix = text_of(ids[:count])
        if not text.startswith(prefix):
            return None
        # Both parts of a character that is cut contain BROKEN; one that the text itself contains is in one part.
        if prefix.endswith(BROKEN) and len(prefix) + len(text_of(ids[count:])) > len(text):
            return None
        return len(prefix)

    here = clean(count)
    if here is not None:
        return here, here
    low = next(c for c in map(clean, range(count - 1, -1, -1)) if c is not None)
    high = next(c for c in map(clean, range(count + 1, len(ids) + 1)) if c is not None)
    prefix = text_of(ids[:count])
    if not text.startswith(prefix[:-1]):
        return low, high
    whole = min(max(low, len(prefix) - 1), high - 1)
    return whole, whole + 1
