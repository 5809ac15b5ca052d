"""What runs cost, what EM they reach for it, and how many steps they take to a given EM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from algorithms.common.evaluation.intervals import Float64s
from algorithms.comparison.run_summary import Cost, SeedGroup

UNITS: dict[Cost, str] = {"attempts": "rollouts", "seconds": "s of training"}


def cost_table(entries: Sequence[SeedGroup], baseline: SeedGroup | None) -> list[list[str]]:
    """Time, rollouts and tokens of a step, and dev EM at the largest cost that every run reached, after a header."""
    spent = {cost: common_cost(entries, cost) for cost in UNITS}
    rows = [["algorithm", "s/step, median", "lowest to highest run", "IG time", "rollouts/step", "tokens read/step"]]
    rows[0].append("tokens written/step")
    rows[0] += [f"dev EM, {spent[cost]:,.0f} {unit}" for cost, unit in UNITS.items() if not math.isnan(spent[cost])]
    if baseline is not None:
        rows[0].insert(3, f"times {baseline.label}'s")
    for entry in entries:
        times = step_seconds(entry)
        median = float(np.median(times))
        row = [entry.label, f"{median:.2f}", f"{times.min():.2f} to {times.max():.2f}", f"{entry.gain_share:.0%}"]
        if baseline is not None:
            row.insert(3, f"{median / float(np.median(step_seconds(baseline))):.2f}")
        row.append(f"{np.mean([record.cost_of_steps('attempts').mean() for record in entry.records]):.0f}")
        for tokens in ([r.tokens_read for r in entry.records], [r.tokens_written for r in entry.records]):
            row.append(f"{np.mean([np.mean(found) for found in tokens]):,.0f}" if all(tokens) else "")
        for cost in UNITS:
            if not math.isnan(spent[cost]):
                found = em_at(entry, cost, spent[cost])
                row.append(f"{found.mean():.3f} ({found.min():.3f} to {found.max():.3f})")
        rows.append(row)
    return rows


def step_seconds(entry: SeedGroup) -> Float64s:
    """Median seconds of a training step of each run."""
    return np.array([np.median(record.cost_of_steps("seconds")) for record in entry.records])


def common_cost(entries: Sequence[SeedGroup], cost: Cost) -> float:
    """The largest cost at which every group has dev EM: that of the first to have its last evaluation; else NaN."""
    spent = [entry.spent(cost)[entry.curve("dev")[0]] for entry in entries]
    end = min((found[-1] for found in spent if len(found)), default=math.nan)
    return float(end) if all(len(found) and found[0] <= end for found in spent) else math.nan


def em_at(entry: SeedGroup, cost: Cost, spent: float) -> Float64s:
    """Dev EM of each run at a cost between its first and last evaluation, interpolated linearly."""
    steps, values = entry.curve("dev")
    return np.array([np.interp(spent, entry.spent(cost)[steps], ems) for ems in values])


def steps_to(entry: SeedGroup, em: float) -> tuple[Float64s, int]:
    """The first evaluated step of each run with a dev EM of at least `em`, infinity where there is none; the last one.

    Only steps that every run has evaluated are looked at.
    """
    steps, values = entry.curve("dev")
    reached = values >= em
    first = [steps[int(row.argmax())] if row.any() else math.inf for row in reached]
    return np.array(first, dtype=np.float64), steps[-1] if steps else 0


def steps_to_em_table(entries: Sequence[SeedGroup], ems: Sequence[float]) -> list[list[str]]:
    """Steps to each EM, after a header. The mean of only those that reach it would favour methods that seldom do."""
    rows = [
        ["algorithm", "dev EM", "runs that reach it", "median step", "mean step, others count as the last", "steps"]
    ]
    for em in ems:
        for entry in entries:
            first, last = steps_to(entry, em)
            if not last:
                continue
            reached = int(np.isfinite(first).sum())
            # Of an even number of runs, the upper one of the two in the middle: a mean with infinity is none.
            median = np.sort(first)[len(first) // 2]
            rows.append(
                [
                    entry.label,
                    f"{em:.2f}",
                    f"{reached} of {len(first)}" if reached else "not reached",
                    f"{median:.0f}" if math.isfinite(median) else f"not reached by {last}",
                    f"{np.minimum(first, last).mean():.1f}",
                    ", ".join(f"{step:.0f}" if math.isfinite(step) else f"> {last}" for step in first),
                ]
            )
    return rows
