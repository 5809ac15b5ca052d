"""Made-up summaries of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from algorithms.comparison.run_summary import RunSummary


def run_summary(
    label: str = "x",
    seed: int = 0,
    start: str = "bundled",
    dev: Sequence[tuple[int, float]] = ((2, 0.2), (4, 0.6)),
    bits: str = "1100",
    **others: Any,
) -> RunSummary:
    """A run of as many steps as its last evaluation on dev questions, of 10 rollouts and 2 seconds each."""
    steps = dev[-1][0] if dev else 4
    means = {"all_fail": 0.5, "attempts": 10.0, "searches": 1.0, "time/step": 2.0, "time/information_gain": 0.5}
    given = {"command": [], "exact_matches": {"a": bits, "b": bits}, "searches": {"a": 1.0, "b": 2.0}}
    given |= {"curves": {"dev": list(dev), "test": [(0, 0.0), (steps, 0.5)]}, "rewards": [0.5] * steps, "means": means}
    return RunSummary(label, seed, start, **(given | others))  # type: ignore[arg-type]
