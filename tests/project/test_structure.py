"""The rules of docs/architecture.md that a program can check: floors, circles, tags, sizes, light imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

from igsearch_env.protocols import PROTOCOLS

PACKAGES = ("retrievers", "igsearch_env", "algorithms", "igsearch", "integrations", "examples", "benchmarks")
# Lowest first. A module belongs to the longest name that it begins with, and imports from lower floors or its own name.
FLOORS = (
    ("retrievers",),
    ("igsearch_env",),
    ("algorithms.common.base",),
    ("algorithms.common.evaluation", "algorithms.common.distributed"),
    ("algorithms.common.model",),
    ("algorithms.common.rollout",),
    ("algorithms.common.training",),
    ("algorithms.common.algorithm", "algorithms.common.config"),
    ("algorithms.common.memory",),
    ("algorithms.common.run",),
    ("algorithms.common.report", "algorithms.common.export"),
    ("algorithms.common.warm_start",),
    ("algorithms.common.trainer",),
    ("algorithms.common.command",),
    ("algorithms",),
    ("algorithms.comparison",),
    ("igsearch",),
    ("integrations",),
    ("examples", "benchmarks"),
)
MAX_LINES = 300
TAG = re.compile(r"</?(?:think|search|information|documents|refine|answer)>")


def module_name(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)  # environments of peers
}


def imports(path: Path, *, later: bool = True) -> set[str]:
    """Names of modules that a file imports, of this project or not; those inside functions only with `later`."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if later else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (modules & MODULES.keys()) or {node.module}
    return names


GRAPH = {name: (imports(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}


def floor(module: str) -> tuple[int, str]:
    """The floor of a module, and the name by which it is there."""
    found = [
        (len(name), number, name)
        for number, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert found, f"{module} is on no floor"
    _, number, name = max(found)
    return number, name


def upward(graph: dict[str, set[str]]) -> Iterator[str]:
    """Imports of a module from a floor above, or from another name on the same floor."""
    for module, imported in graph.items():
        here = floor(module)
        for other in sorted(imported):
            there = floor(other)
            if there[0] > here[0] or (there[0] == here[0] and there[1] != here[1]):
                yield f"{module} imports {other}"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; [] if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            found = visit(other, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_no_import_runs_up() -> None:
    assert not list(upward(GRAPH))


def test_there_is_no_circle_of_imports() -> None:
    assert circle(GRAPH) == []


def test_what_these_tests_would_find() -> None:
    sampler, base = "algorithms.common.rollout.sampler", "algorithms.common.base.errors"
    wrong = {
        **GRAPH,
        base: {sampler},
        "algorithms.common.evaluation.scores": {"algorithms.common.distributed.processes"},
    }
    assert list(upward(wrong)) == [
        f"{base} imports {sampler}",
        "algorithms.common.evaluation.scores imports algorithms.common.distributed.processes",
    ]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]


def test_where_files_are() -> None:
    folders = {path.name for path in (ROOT / "algorithms").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"common", "comparison", "configs"}
    flat = [path.name for path in (ROOT / "algorithms" / "common").glob("*.py") if path.name != "__init__.py"]
    assert len(flat) <= 4, flat
    for path in (ROOT / "algorithms").glob("*.py"):  # one runnable file an algorithm
        assert path.name == "__init__.py" or 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), path


def test_no_file_is_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def literals(path: Path) -> Iterator[str]:
    """The string constants of a file, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_only_protocols_know_tags() -> None:
    assert TAG.search("".join(literals(ROOT / "igsearch_env" / "protocols" / "tags.py")))
    for protocol in PROTOCOLS.values():
        assert all(TAG.fullmatch(marker) for marker in protocol.markers)
    for name, path in MODULES.items():
        # Chat templates have <think> tags of their own.
        if not name.startswith("igsearch_env.protocols") and name != "algorithms.common.model.response_templates":
            found = [text for text in literals(path) if TAG.search(text)]
            assert not found, f"{name} has tags of its own: {found}; ask the protocol"


@pytest.mark.parametrize("option", ["token_budget", "max_observation_tokens"])
def test_an_option_is_known_to_few_files(option: str) -> None:
    known = [name for name, path in MODULES.items() if option in path.read_text(encoding="utf-8")]
    scripts = ("examples", "benchmarks", "integrations")
    library = [name for name in known if not name.startswith(scripts) and name[-7:] != ".config"]
    assert 1 <= len(library) <= 4, library


def test_no_program_ends_with_a_message_alone() -> None:
    """Its exit status would be 1, whatever the message says (`retrievers/program.py`: `end`, `ends_in_one_line`)."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit", "SystemExit"):
                texts = [
                    a for a in node.args if isinstance(a, ast.JoinedStr) or isinstance(getattr(a, "value", 0), str)
                ]
                assert not texts, f"{name}, line {node.lineno}"


def test_the_environment_never_imports_torch() -> None:
    heavy = {"torch", "transformers", "sentence_transformers"}
    for name, path in MODULES.items():
        if name.split(".")[0] in ("igsearch_env", "retrievers"):
            # An encoder needs torch when it is made, not when its module is imported.
            found = {module.split(".")[0] for module in imports(path, later=name.startswith("igsearch_env"))}
            assert not found & heavy, name


def test_importing_the_environment_stays_light() -> None:
    heavy = ("torch", "transformers", "sentence_transformers", "faiss", "hnswlib", "httpx", "fastapi", "datasets")
    program = f"import sys, igsearch_env, retrievers; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
