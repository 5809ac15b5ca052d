"""`KVSpace`: the rows of the KV cache that episodes hold, within the limit `rollout.kv_cache_tokens`.

An episode holds as many rows as it has tokens and may write in its turn, not a whole context, and gets more as it
grows. Rows of ended episodes stay readable until they are needed.
"""

from __future__ import annotations

from algorithms.common.model.kv_spans import PAGE, Span, SpanAllocator, whole_pages

FIRST = 256  # rows that an episode begins with, at least: many then never move


def limited_rows(kv_cache_tokens: int, context: int) -> int:
    """Rows of a cache of `kv_cache_tokens`, in whole pages; at least one context, or nothing could be played."""
    return max(kv_cache_tokens // PAGE * PAGE, whole_pages(context))


class KVSpace:
    """Spans of rows by slot.

    Args:
        rows: of the cache (`limited_rows`).
        context: maximum tokens of an episode.
        aligned: as for `SpanAllocator`.
    """

    def __init__(self, rows: int, context: int, *, aligned: bool) -> None:
        self.rows = rows
        self.context = context
        self.live: dict[int, Span] = {}
        self.ended: dict[int, Span] = {}  # in the order in which they ended
        self.high = 0  # rows that have been used, from the first one
        self._allocator = SpanAllocator(rows, aligned=aligned)

    def needed(self, tokens: int) -> int:
        """Rows of an episode that is to hold `tokens`."""
        return whole_pages(min(max(tokens, FIRST), self.context))

    def grow(self, slot: int, tokens: int) -> bool:
        """Give a slot a span for `tokens`, perhaps in another place. False if there is none: it keeps what it has.

        Ended episodes give way, the first one first.
        """
        rows, old = self.needed(tokens), self.live.get(slot)
        if old is not None:
            if old.rows >= rows:
                return True
            self._allocator.free(old)
        near = None if old is None else old.start
        while (span := self._allocator.allocate(rows, near)) is None and self.ended:
            self._allocator.free(self.ended.pop(next(iter(self.ended))))
        if span is None:
            if old is not None:
                self._allocator.take(old)
            return False
        self.live[slot] = span
        self.high = max(self.high, span.start + span.rows)
        return True

    def release(self, slot: int) -> None:
        """Free the rows of a slot, of a live or an ended episode."""
        for spans in (self.live, self.ended):
            if slot in spans:
                self._allocator.free(spans.pop(slot))

    def end(self, slot: int) -> None:
        """The episode has ended: its rows stay readable until the slot or the rows are used again."""
        if slot in self.live:
            self.ended[slot] = self.live.pop(slot)
