"""Likely mistakes of a new user, each as a process: exit status 2, one message with its repair, nothing changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.mistakes import Place, make, place, problem
from benchmarks.mistakes_table import MISTAKES, Mistake


@pytest.fixture(scope="module")
def where() -> Iterator[Place]:
    """The folder in which the commands run."""
    with place() as made:
        yield made


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.command)
def test_a_mistake_is_refused_with_one_message(mistake: Mistake, where: Place) -> None:
    before = where.files()
    done = make(mistake, where)
    assert problem(mistake, where, done) == "", done.stderr
    assert done.stdout == ""
    assert where.files() == before


def test_no_mistake_is_in_the_table_twice() -> None:
    commands = [mistake.command for mistake in MISTAKES]
    assert len(commands) == len(set(commands)) >= 40
