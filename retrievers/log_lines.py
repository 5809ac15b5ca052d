"""Log messages of this project as lines on standard error, for its commands. A library call leaves logging alone."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

PACKAGES = ("retrievers", "igsearch_env", "algorithms")


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time of the message."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


_HANDLER = _StandardError()


def show_log_lines() -> None:
    """Show what is recognised, chosen and left out. Of several processes of a launcher, only the first shows it."""
    first = os.environ.get("RANK", "0") == "0"
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if first else logging.WARNING)
        if _HANDLER not in logger.handlers:
            logger.addHandler(_HANDLER)
