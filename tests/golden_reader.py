"""Golden cases: reading them, and comparing what our functions give with what they hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RELATIVE = 2e-6  # float32 keeps about seven digits: what an absolute tolerance forgets about large numbers


@dataclass(frozen=True)
class NotAsked:
    """In the place of an output that is not compared, with the reason."""

    reason: str


@dataclass(frozen=True)
class Case:
    """One case with the fixture and the other cases of its file."""

    file: str
    name: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    fixture: dict[str, Any]
    siblings: dict[str, dict[str, Any]]  # inputs by the name of the case
    used: set[str] = field(default_factory=set)  # inputs that `get` has returned, or that `ignore` has named

    def ignore(self, reason: str, *keys: str) -> None:
        """Say why inputs make no difference to the outputs that are compared."""
        assert reason
        self.used.update(keys)

    @property
    def unused(self) -> set[str]:
        """The case's own inputs that nothing has asked for: what they say was not tested."""
        return self.inputs.keys() - self.used

    def has(self, key: str) -> bool:
        """Whether `get` would find it."""
        return self._find(key) is not None

    def get(self, key: str) -> Any:
        """An input: the case's own, else the fixture's (which may be in named parts)."""
        found = self._find(key)
        if found is None:
            raise KeyError(f"{self.file}: case {self.name!r} has no input {key!r}, nor has its fixture")
        self.used.add(key)
        return found[0]

    def _find(self, key: str) -> tuple[Any] | None:
        parts = [self.inputs, self.fixture, *(part for part in self.fixture.values() if isinstance(part, dict))]
        return next(((part[key],) for part in parts if key in part), None)


def read_cases(folder: Path) -> list[Case]:
    """Every case of every *.json of a folder."""
    cases = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        siblings = {row["name"]: row["inputs"] for row in content["cases"]}
        fixture = content.get("fixture") or {}
        cases += [
            Case(path.stem, row["name"], row["inputs"], row["outputs"], fixture, siblings) for row in content["cases"]
        ]
    return cases


def differences(ours: Any, golden: Any, tolerance: float, where: str = "") -> list[str]:
    """What differs, one line each: numbers within the tolerance, everything else exactly."""
    ours = ours.tolist() if hasattr(ours, "tolist") else ours
    if isinstance(ours, NotAsked):
        return []
    if isinstance(golden, dict):
        if not isinstance(ours, dict):
            return [f"{where}: {ours!r}, golden is a dictionary"]
        missing = [f"{where}.{key}: nothing was computed" for key in golden if key not in ours]
        pairs = [(f"{where}.{key}", ours[key], value) for key, value in golden.items() if key in ours]
        return missing + [line for path, a, b in pairs for line in differences(a, b, tolerance, path)]
    if isinstance(golden, list):
        if not isinstance(ours, (list, tuple)) or len(ours) != len(golden):
            return [f"{where}: {ours!r}, golden {golden!r}"]
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(ours, golden, strict=True))]
        return [line for path, a, b in pairs for line in differences(a, b, tolerance, path)]
    if isinstance(golden, (int, float)) and isinstance(ours, (int, float)):
        near = abs(ours - golden) <= tolerance + RELATIVE * abs(golden)
    else:
        near = bool(ours == golden)
    return [] if near else [f"{where}: {ours!r}, golden {golden!r}"]
