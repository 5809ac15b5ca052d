"""`atomic_write`: a file is written whole or not at all. tests/full_disk.py tries whole runs on a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from algorithms.common.base.files import atomic_write


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_takes_its_place_after_the_block(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with atomic_write(path, durable=durable) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def write_and_raise(path: Path, error: BaseException) -> None:
    """Write half of a file, then fail."""
    with atomic_write(path) as partial:
        partial.write_text("ne")
        raise error


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", ["old", None])
def test_an_error_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, error: BaseException, before: str | None
) -> None:
    path = tmp_path / "kept.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(type(error)):
        write_and_raise(path, error)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    with pytest.raises(FileNotFoundError), atomic_write(path) as partial:
        pass
    partial.write_text("a longer text that a killed process had begun")
    with atomic_write(path) as again:
        again.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
