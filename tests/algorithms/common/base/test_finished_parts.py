"""Finished parts on disk: what is resumed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from algorithms.common.base.finished_parts import FinishedParts
from igsearch_env.errors import ConfigurationError

SETTINGS = {"seed": 1, "names": ["ä", "b"], "nothing": None}


def kept(folder: Path) -> FinishedParts:
    """The parts of OUTPUT in a folder."""
    return FinishedParts(folder / "new" / "out.json", SETTINGS)


def test_parts_are_there_again(tmp_path: Path) -> None:
    first = kept(tmp_path)
    assert first.parts == {}
    parts: dict[str, Any] = {"a 0": [{"x": 0.1}], "a 2": [], "ü": None}
    for name, part in parts.items():
        first.add(name, part)
        assert kept(tmp_path).parts == first.parts
    assert kept(tmp_path).parts == parts
    first.remove()
    assert list((tmp_path / "new").iterdir()) == []
    assert kept(tmp_path).parts == {}


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_line_that_a_crash_left_incomplete_is_removed(cut: int, tmp_path: Path) -> None:
    parts = kept(tmp_path)
    parts.add("one", 1)
    parts.add("two", 2)
    assert parts.path is not None
    parts.path.write_bytes(parts.path.read_bytes()[:-cut])
    again = kept(tmp_path)
    assert again.parts == {"one": 1}
    again.add("three", 3)
    assert kept(tmp_path).parts == {"one": 1, "three": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"seed": 2}\n', "was started with other settings; run that command again"),
        ("[]\n", "was started with other settings"),
        ("{\n", "line 1: damaged .*delete the file to start over"),
        ('SETTINGS["one", 1]\n{"two": 2}\n', "line 3: damaged .*not the name and the data"),
        ("SETTINGS[1, 2]\n", "line 2: damaged"),
        ("SETTINGS\xff\n", "line 2: damaged"),
    ],
)
def test_another_or_a_damaged_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    parts = kept(tmp_path)
    assert parts.path is not None
    settings = parts.path.read_bytes()
    before = text.encode("latin-1").replace(b"SETTINGS", settings)
    parts.path.write_bytes(before)
    with pytest.raises(ConfigurationError, match=message):
        kept(tmp_path)
    assert parts.path.read_bytes() == before


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = FinishedParts(None, SETTINGS)
    parts.add("one", 1)
    parts.remove()
    assert parts.parts == {"one": 1}
    assert list(tmp_path.iterdir()) == []
