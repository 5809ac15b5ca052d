"""A sample of benchmarks/damaged_files.py: no damaged or hostile file runs code, crashes or ends in a traceback."""

from __future__ import annotations

import pytest

from benchmarks.damaged_files import READ, REFUSED, open_damaged

CHEAP = (
    "corpus on disk",
    "questions",
    "published files",
    "record of searches",
    "index hnswlib",
    "configuration",
    "settings of a warm start",
    "run to resume",
    "result",
)


@pytest.mark.parametrize("kind", [CHEAP[:4], CHEAP[4:6], CHEAP[6:]])
def test_damaged_and_hostile_files_are_read_or_refused(kind: tuple[str, ...]) -> None:
    for name in kind:
        results = open_damaged(name, 40, seed=1)
        assert len(results) == 40
        assert [found for found in results if found[0] not in (READ, REFUSED)] == []
        assert any(found[0] == REFUSED for found in results)
