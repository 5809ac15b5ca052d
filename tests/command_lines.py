"""What a command line is refused with."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms.common.base.command_line import parse_options
from algorithms.common.config import RENAMED


def refusal(capsys: pytest.CaptureFixture[str], config_class: type[Any], *arguments: str) -> str:
    """The one line that a command line is refused with."""
    with pytest.raises(SystemExit) as stop:
        parse_options(config_class, arguments, renamed=RENAMED)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line
