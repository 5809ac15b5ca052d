"""Reward hacking of several algorithms during training (`igsearch_env/reward_hacking.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from algorithms.comparison.run_summary import HACKING, SeedGroup
from igsearch_env.reward_hacking import KINDS


def hacking_table(entries: Sequence[SeedGroup]) -> list[list[str]]:
    """Each kind's share of the searches, mean over steps and runs, after a header; empty if a run has not logged it."""
    rows = [["algorithm", *(kind.replace("_", " ") for kind in KINDS)]]
    for entry in entries:
        logged = all(key in record.means for record in entry.records for key in HACKING)
        rows.append([entry.label, *(f"{entry.per_step(key):.3f}" if logged else "" for key in HACKING)])
    return rows
