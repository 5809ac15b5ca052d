"""`SpanAllocator`: which rows of a KV cache are taken, in contiguous spans of whole pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PAGE = 64  # rows of a page


@dataclass(frozen=True, slots=True)
class Span:
    """Contiguous rows of a KV cache, for one sequence."""

    start: int
    rows: int

    @property
    def grid(self) -> int:
        """The smallest power of two that is at least `rows`: aligned spans of one grid start at its multiples."""
        return 1 << (self.rows - 1).bit_length()


def whole_pages(rows: int) -> int:
    """`rows`, rounded up to whole pages."""
    return -(-rows // PAGE) * PAGE


class SpanAllocator:
    """Gives out spans of `rows` rows, lowest address first.

    Args:
        rows: of the whole cache, as far as they fill pages.
        aligned: prefer starts at multiples of `Span.grid`, so that sequences of similar length lie at equal distances.
    """

    def __init__(self, rows: int, *, aligned: bool) -> None:
        self._taken = np.zeros(rows // PAGE, dtype=bool)
        self._aligned = aligned

    def allocate(self, rows: int, near: int | None = None) -> Span | None:
        """A span of at least `rows` rows, from row `near` on if they are free; None if there is no such span."""
        span = Span(0, whole_pages(rows))
        pages, grid = span.rows // PAGE, max(1, span.grid // PAGE)
        if pages > len(self._taken):
            return None
        sums = np.concatenate(([0], self._taken.cumsum()))
        possible = sums[pages:] == sums[:-pages]  # by first page: no page of the span is taken
        aligned = possible[::grid]
        page = None if near is None else near // PAGE
        if page is not None and page < len(possible) and possible[page] and not (self._aligned and page % grid):
            first = page
        elif self._aligned and aligned.any():
            first = int(aligned.argmax()) * grid
        elif possible.any():
            first = int(possible.argmax())
        else:
            return None
        found = Span(first * PAGE, span.rows)
        self.take(found)
        return found

    def take(self, span: Span) -> None:
        """Take a span that is free."""
        self._taken[span.start // PAGE : (span.start + span.rows) // PAGE] = True

    def free(self, span: Span) -> None:
        """Free a span."""
        self._taken[span.start // PAGE : (span.start + span.rows) // PAGE] = False
