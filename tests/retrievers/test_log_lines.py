"""Commands show on standard error what was recognised; a library call does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

SHOWS = "from retrievers.log_lines import show_log_lines; show_log_lines(); show_log_lines(); "


@pytest.mark.parametrize(
    ("first", "rank", "shown"),
    [(SHOWS, "0", True), (SHOWS, "1", False), ("", "0", False)],
    ids=["command", "second process", "library"],
)
def test_what_was_recognised_is_shown_once(tmp_path: Path, first: str, rank: str, shown: bool) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"_id": "1", "title": "Karith", "text": "A town."}) + "\n")
    code = f"{first}from retrievers import load_corpus; load_corpus({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "RANK": rank},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == (f"{path}: JSON lines with _id, title, text\n" if shown else "")
    assert done.stdout == ""
