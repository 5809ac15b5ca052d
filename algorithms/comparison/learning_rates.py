"""Learning rates: final EM of every method by learning rate, and the rate that each is compared at.

Runs of a method at a learning rate have the label METHOD@RATE, such as `grpo@6e-4`. The rule: of the rates of a method,
the one whose runs have the highest dev EM at their last evaluation, averaged over seeds; the lowest of equal ones. The
seeds are others than those of the comparison, and no test question is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from algorithms.comparison.run_summary import SeedGroup

LABEL = re.compile(r"(.+)@(\d[\d.]*(?:e[+-]?\d+)?)")


def shown_rate(rate: float) -> str:
    """A learning rate as in labels: 1.5e-4."""
    digits, exponent = f"{rate:.6e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def at_rate(method: str, rate: str) -> str:
    """The label of a method's runs at a learning rate."""
    return f"{method}@{rate}"


def rate_of(label: str) -> tuple[str, str | None]:
    """The method and the learning rate of a label; None without one."""
    found = LABEL.fullmatch(label)
    return (found[1], found[2]) if found else (label, None)


@dataclass(frozen=True)
class Rates:
    """The runs of a method by learning rate, in increasing order of rates."""

    method: str
    groups: Mapping[str, SeedGroup]

    def dev_em(self, rate: str) -> float:
        """Dev EM at the last evaluation, mean over seeds; NaN without an evaluation."""
        _, values = self.groups[rate].curve("dev")
        return float(values[:, -1].mean()) if values.size else float("nan")

    @property
    def chosen(self) -> str:
        """The rate that the method is compared at."""
        return max(self.groups, key=lambda rate: (np.nan_to_num(self.dev_em(rate), nan=-1.0), -float(rate)))

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is the lowest or the highest of several, so that a better one may lie beyond it."""
        return len(self.groups) > 1 and self.chosen in (next(iter(self.groups)), list(self.groups)[-1])


def rates_by_method(entries: Sequence[SeedGroup]) -> list[Rates]:
    """The methods whose labels name a learning rate, in order of first appearance."""
    found: dict[str, dict[str, SeedGroup]] = {}
    for entry in entries:
        method, rate = rate_of(entry.label)
        if rate is not None:
            found.setdefault(method, {})[rate] = entry
    return [
        Rates(method, {rate: groups[rate] for rate in sorted(groups, key=float)}) for method, groups in found.items()
    ]


def rate_table(methods: Sequence[Rates]) -> list[list[str]]:
    """Final test EM and last dev EM of the methods with several learning rates, after a header."""
    rows = [["method", "learning rate", "seeds", "test EM", "lowest to highest", "last dev EM", "chosen"]]
    for found in (one for one in methods if len(one.groups) > 1):
        for rate, entry in found.groups.items():
            final = entry.final
            mark = "yes, at the edge of the grid" if found.at_edge else "yes"
            rows.append(
                [
                    found.method,
                    rate,
                    str(len(entry.records)),
                    f"{final.mean():.3f}",
                    f"{final.min():.3f} to {final.max():.3f}",
                    f"{found.dev_em(rate):.3f}",
                    mark if rate == found.chosen else "",
                ]
            )
    return rows
