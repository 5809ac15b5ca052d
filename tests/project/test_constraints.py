"""The pinned versions can be installed on every Python that the project claims to run on."""

from __future__ import annotations

import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from paths import ROOT

PINS = [
    Requirement(line.partition("#")[0])
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.partition("#")[0].strip()
]


def test_every_pin_can_be_installed_on_the_oldest_python() -> None:
    """pip looks for other versions for ten minutes before it gives up, and its message names another package."""
    (oldest,) = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    first = f"{oldest.version}.0"  # Debian 12 has 3.11.2
    checked = 0
    for pin in PINS:
        try:
            installed = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            continue  # a pin of another platform or extra
        if installed.version.partition("+")[0] not in pin.specifier:
            continue  # its metadata say nothing about the pinned version
        wanted = installed.metadata.get("Requires-Python")
        assert wanted is None or first in SpecifierSet(wanted), f"{pin} needs Python {wanted}, the project {oldest}"
        checked += 1
    if not checked:
        pytest.skip("no pinned version is installed")
