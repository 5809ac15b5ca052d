"""The rules of docs/architecture.md and README.md that a program can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = ("retrievers", "igsearch_env", "algorithms", "examples")


def imported(path: Path, *, later: bool = True) -> set[str]:
    """Top-level packages that a file imports; those inside functions only with `later`."""
    names: set[str] = set()
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module) if later else module.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


def test_imports_go_one_way() -> None:
    for level, package in enumerate(LAYERS):
        for path in (ROOT / package).rglob("*.py"):
            above = imported(path) & set(LAYERS[level + 1 :])
            assert not above, f"{path} imports {above}"


def test_the_environment_never_imports_torch() -> None:
    for package in ("igsearch_env", "retrievers"):
        for path in (ROOT / package).rglob("*.py"):
            # An encoder needs torch when it is made, not when its module is imported.
            found = imported(path, later=package == "igsearch_env")
            assert not found & {"torch", "transformers", "sentence_transformers"}, path


def test_importing_the_environment_stays_light() -> None:
    heavy = ("torch", "transformers", "sentence_transformers", "faiss", "hnswlib", "httpx", "fastapi", "datasets")
    program = f"import sys, igsearch_env, retrievers; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
