"""Serve a corpus or an index: the command of `retrievers/server.py`, with the error messages of all commands."""

from __future__ import annotations

from algorithms.common.base.command_line import parse_options
from retrievers import server
from retrievers.program import ends_in_one_line


def command() -> None:
    """Run the service from the command line."""
    with ends_in_one_line(OSError, ValueError):
        server.serve(parse_options(server.Args, description=server.__doc__))
