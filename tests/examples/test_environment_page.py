"""The code of docs/environment.md runs, in order, as one program."""

from __future__ import annotations

import re
from typing import Any

from paths import ROOT

PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.count("```") / 2 == 7
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"docs/environment.md, block {number}", "exec"), names)
    assert len(names["returns"]) == 8
