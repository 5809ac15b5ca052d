"""The notebook examples/first_steps.ipynb runs, and shows what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def outputs(cell: dict[str, Any], form: str) -> str:
    """What a cell has printed (`text`) or displayed in a form such as `text/html`."""
    found = [o.get("text", "") if form == "text" else o.get("data", {}).get(form, "") for o in cell["outputs"]]
    return "".join(found)


def test_the_file_has_no_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = {cell["id"]: cell for cell in notebook.cells}
    assert "information gain 2.98 nats, reward 1.81\nreward of the answer 1, terminated True" in outputs(
        cells["play"], "text"
    )
    metrics = outputs(cells["metrics"], "text")
    before, after = map(float, re.findall(r"(0\.\d\d) (?:before|after)", metrics))
    assert after > before + 0.2, metrics
    assert outputs(cells["metrics"], "image/png")
    assert "iframe srcdoc=" in outputs(cells["page"], "text/html")
    assert len(outputs(cells["page"], "text/html")) > 100_000
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
