"""Shared by all benchmarks: a measured line, its table, and interleaved timings, so that noise affects both sides."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One measured value. `target` None: reported without a verdict."""

    name: str
    value: float
    unit: str = "x"
    target: float | None = None
    at_most: bool = False
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the target is met."""
        if self.target is None:
            return True
        return self.value <= self.target if self.at_most else self.value >= self.target


def print_section(console: Console, name: str, lines: list[Line], taken: float) -> None:
    """Print a table of the lines of a section, which took `taken` seconds."""
    table = Table(title=f"{name} ({taken:.0f} s)")
    for column in ("figure", "measured", "target", "", "detail"):
        table.add_column(column, justify="right" if column in ("measured", "target") else "left")
    for line in lines:
        target = "" if line.target is None else f"{'≤' if line.at_most else '≥'} {line.target:,g}"
        verdict = "target missed" if not line.ok else ""
        table.add_row(line.name, f"{line.value:,.3g} {line.unit}", target, verdict, line.detail)
    console.print(table)


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of `repeats` executions of each run; every round executes all runs in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(-warm_up, repeats):
        for name, run in runs.items():
            taken = seconds(run)
            if round_number >= 0:
                times[name].append(taken)
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def peak_gigabytes(who: int = resource.RUSAGE_SELF) -> float:
    """Peak resident memory of this process in gigabytes, or of its largest child (RUSAGE_CHILDREN)."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(who).ru_maxrss * unit / 1e9


class MemoryWatch:
    """Peak resident memory within a block above that at its start, in gigabytes (`grown`). Linux only, else nan."""

    grown = float("nan")

    def __enter__(self) -> MemoryWatch:
        self._stop = threading.Event()
        self._start = self._largest = self._resident()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self.grown = (self._largest - self._start) / 1e9

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self._largest = max(self._largest, self._resident())

    @staticmethod
    def _resident() -> float:
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        except OSError:
            return float("nan")
        return float(pages * os.sysconf("SC_PAGE_SIZE"))
