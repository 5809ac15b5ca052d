"""Build an index of a corpus: the command of `retrievers/build_index.py`, with the error messages of all commands."""

from __future__ import annotations

from algorithms.common.base.command_line import parse_options
from retrievers import build_index
from retrievers.program import ends_in_one_line


def command() -> None:
    """Build an index from the command line."""
    with ends_in_one_line(OSError, interrupted=build_index.INTERRUPTED):
        build_index.main(parse_options(build_index.Args, description=build_index.__doc__))
