"""Rows of the KV cache: spans never overlap, and what is free is found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.model.kv_spans import PAGE, Span, SpanAllocator, whole_pages


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12 * PAGE)), max_size=40), st.booleans(), st.integers(1, 40))
def test_spans_are_disjoint_and_a_free_one_is_found(orders: list[tuple[bool, int]], aligned: bool, pages: int) -> None:
    allocator = SpanAllocator(pages * PAGE + 7, aligned=aligned)
    held: list[Span] = []
    for begins, rows in orders:
        if not begins and held:
            allocator.free(held.pop(rows % len(held)))
            continue
        span = allocator.allocate(rows)
        free = [page for page in range(pages) if not any(s.start <= page * PAGE < s.start + s.rows for s in held)]
        needed = whole_pages(rows) // PAGE
        fits = any(set(range(page, page + needed)) <= set(free) for page in free)
        assert (span is not None) == fits
        if span is not None:
            assert span.rows == needed * PAGE
            assert {row // PAGE for row in range(span.start, span.start + span.rows)} <= set(free)
            held.append(span)
    for span in held:
        allocator.free(span)
    assert allocator.allocate(pages * PAGE) == Span(0, pages * PAGE)


def test_sequences_of_similar_length_lie_at_equal_distances() -> None:
    allocator = SpanAllocator(64 * PAGE, aligned=True)
    starts = [allocator.allocate(rows) for rows in (100, 300, 120, 290, 128, 257)]
    assert [(span.start, span.grid) for span in starts if span] == [
        (0, 128), (512, 512), (128, 128), (1024, 512), (256, 128), (1536, 512)
    ]  # fmt: skip


def test_without_room_at_equal_distances_any_place_will_do() -> None:
    allocator = SpanAllocator(7 * PAGE, aligned=True)
    assert allocator.allocate(PAGE) == Span(0, PAGE)
    assert allocator.allocate(5 * PAGE) == Span(PAGE, 5 * PAGE)
    assert allocator.allocate(2 * PAGE) is None
    assert allocator.allocate(8 * PAGE) is None


@pytest.mark.parametrize(("rows", "start"), [(3 * PAGE, 4 * PAGE), (5 * PAGE, 8 * PAGE)])
def test_a_span_grows_where_it_is_if_it_can(rows: int, start: int) -> None:
    allocator = SpanAllocator(32 * PAGE, aligned=True)
    allocator.take(Span(0, 4 * PAGE))
    old = allocator.allocate(2 * PAGE, near=4 * PAGE)
    assert old == Span(4 * PAGE, 2 * PAGE)
    allocator.free(old)
    assert allocator.allocate(rows, near=old.start) == Span(start, rows)  # 5 pages begin at multiples of 8


def test_anywhere_the_next_rows_are_enough() -> None:
    allocator = SpanAllocator(32 * PAGE, aligned=False)
    allocator.take(Span(0, PAGE))
    assert allocator.allocate(5 * PAGE, near=PAGE) == Span(PAGE, 5 * PAGE)
