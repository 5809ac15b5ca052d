"""A JSON list is read object by object: the same values as `json.loads`, in bounded memory, and every damage named."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrievers.formats import json_list
from retrievers.formats.json_list import read_json_list
from retrievers.reading import FileError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(
    st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=6), VALUES, max_size=3), max_size=4
)


def rows_of(path: Path) -> list[Any]:
    """All rows, whose numbers are checked."""
    found = list(read_json_list(path))
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return [row for _, row in found]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, block=st.integers(1, 40), indent=st.sampled_from([None, 0, 3]), ascii=st.booleans())
def test_equals_json_whatever_the_blocks_are(
    tmp_path: Path, rows: list[Any], block: int, indent: int | None, ascii: bool
) -> None:
    path = tmp_path / "x.json"
    path.write_text(f" \n{json.dumps(rows, indent=indent, ensure_ascii=ascii)}\n ", encoding="utf-8")
    before, json_list.BLOCK = json_list.BLOCK, block
    try:
        assert rows_of(path) == rows
    finally:
        json_list.BLOCK = before


def test_reads_a_compressed_list(tmp_path: Path) -> None:
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b'[{"a": "]}"}, {"b": "\\""}]'))
    assert rows_of(tmp_path / "x.json.gz") == [{"a": "]}"}, {"b": '"'}]


@pytest.mark.parametrize(
    ("content", "rows", "said"),
    [
        ("", 0, "not a JSON list of objects"),
        ("  ", 0, "not a JSON list of objects"),
        ('{"a": 1}', 0, "not a JSON list of objects"),
        ("[1, 2]", 0, "not a JSON list of objects"),
        ("[[]]", 0, "not a JSON list of objects"),
        ('x[{"a": 1}]', 0, "not a JSON list of objects"),
        ('[,{"a": 1}]', 0, "not a JSON list of objects"),
        ('[{"a": 1} {"b": 2}]', 1, "after row 1"),
        ('[{"a": 1},, {"b": 2}]', 1, "after row 1"),
        ('[{"a": 1},]', 1, "after row 1"),
        ('[{"a": 1}, "x"]', 1, "after row 1"),
        ('[{"a": 1}}', 1, "after row 1"),
        ('[{"a": 1}] [', 1, "after row 1"),
        ('[{"a": 1}] x', 1, "after row 1"),
        ('[{"a": 1}, {"b": 2', 1, "row 2: the file ends before its list does: it is truncated"),
        ('[{"a": 1}, {"b": "2', 1, "row 2: the file ends before its list does"),
        ('[{"a": 1}', 1, "row 2: the file ends before its list does"),
        ('[{"a": 1}, {"b": 2]]', 1, "row 2: not JSON"),
        ('[{"a": 1}, {"b": 2,}]', 1, "row 2: not JSON"),
        ('[{"a": 1}, {"b": "\\ud800"}]', 1, "row 2: the text has half of a surrogate pair"),
        ('[{"a": ' + "9" * 101 + "}]", 0, "row 1: a number of more than 100 digits"),
        ('[{"a": ' + "[" * 10**5, 0, "row 1: brackets nested more than 64 deep"),
    ],
)
def test_names_what_is_wrong_after_the_rows_before_it(tmp_path: Path, content: str, rows: int, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    read = read_json_list(path)
    assert [next(read)[1] for _ in range(rows)] == [{"a": 1}] * rows
    with pytest.raises(FileError, match=said) as caught:
        next(read)
    assert str(caught.value).startswith(str(path))


def test_memory_is_that_of_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    row = json.dumps({"text": "word " * 2_000})
    path.write_text(f"[{', '.join([row] * 2_000)}]", encoding="utf-8")  # 20 MB
    tracemalloc.start()
    assert sum(1 for _ in read_json_list(path)) == 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * json_list.BLOCK
    monkeypatch.setattr(json_list, "MAX_LINE", 9_000)
    monkeypatch.setattr(json_list, "BLOCK", 1_000)
    with pytest.raises(FileError, match="row 1: longer than"):
        list(read_json_list(path))
