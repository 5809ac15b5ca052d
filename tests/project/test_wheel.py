"""The wheel has everything that the packages need, and nothing else gets into site-packages."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from launching import ENVIRONMENT
from paths import ROOT

PACKAGES = ("algorithms", "igsearch", "igsearch_env", "integrations", "retrievers")
UNPACKED = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info", "shared")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy."""
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than pyproject.toml asks for, and another would be downloaded")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "copy", ignore=UNPACKED)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "..", "."]
    done = subprocess.run(command, cwd=folder / "copy", env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("igsearch-*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


def metadata(wheel: zipfile.ZipFile) -> Message:
    """METADATA."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_only_these_packages_are_installed(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES}


def test_every_file_of_a_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Sources, configurations, styles and scripts of pages, licences, the bundled policy, and py.typed."""
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    kinds = {Path(file).suffix for file in files}
    assert {".py", ".yaml", ".css", ".js", ".txt", ".json", ".safetensors", ".typed"} <= kinds
    assert files == {name for name in wheel.namelist() if ".dist-info/" not in name}
    for package in PACKAGES:
        assert f"{package}/py.typed" in files


def test_the_licences_come_along(wheel: zipfile.ZipFile) -> None:
    licences = [name for name in wheel.namelist() if "/licenses/" in name]
    assert any(name.endswith("/licenses/LICENSE") for name in licences)
    assert any(name.endswith("uPlot.LICENSE.txt") for name in licences)


def test_what_the_wheel_says_about_itself(wheel: zipfile.ZipFile) -> None:
    said = metadata(wheel)
    assert said["Name"] == "igsearch"
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload().startswith("# IGSearch")
    assert len(said["Keywords"].split(",")) >= 5
    links = dict(value.split(", ") for value in said.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Repository", "Changelog"} <= links.keys()
    assert all(link.startswith("https://") for link in links.values())
    classifiers = said.get_all("Classifier")
    assert "Typing :: Typed" in classifiers
    assert "Topic :: Scientific/Engineering :: Artificial Intelligence" in classifiers
    assert {"train", "dense", "server", "all", "dev"} <= {*said.get_all("Provides-Extra")}
    required = [value for value in said.get_all("Requires-Dist") if "extra ==" not in value]
    names = {re.split(r"[<>=;\[ ]", value)[0].lower() for value in required}
    assert {"gymnasium", "numpy", "bm25s"} <= names
    assert not names & {"torch", "transformers", "sentence-transformers", "faiss-cpu", "fastapi", "scipy"}


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert wheel.read(name).decode().split() == ["[console_scripts]", "igsearch", "=", "igsearch.cli:main"]


def texts(source: str) -> Iterator[str]:
    """The string constants of a file, but for docstrings and the texts below fields."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_messages_name_no_file_that_is_not_installed(wheel: zipfile.ZipFile) -> None:
    for name in wheel.namelist():
        if name.endswith(".py"):
            found = [text for text in texts(wheel.read(name).decode()) if "examples/" in text]
            assert not found, f"{name}: {found}; name a command of igsearch"
