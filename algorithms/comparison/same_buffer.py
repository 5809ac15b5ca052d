"""Every algorithm on one buffer: advantages side by side, where they agree and differ, and the information gain.

Plain data for `examples/same_buffer.py` to print.
"""

from __future__ import annotations

from typing import Any

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.comparison.advantages import all_advantages, summaries, turn_means, turn_rows
from algorithms.comparison.buffer_statistics import anchors_alone, gain_statistics, group_outcomes
from algorithms.comparison.gains import Gains
from algorithms.comparison.registry import ALGORITHMS, INFORMATION_GAINS

NOTES = (
    "DAPO is not included: it differs from GRPO in sampling and in the loss, not in the advantages.",
    "PPO, Turn-PPO and StepSearch have a critic that returns 0 everywhere, as before its first update.",
)


def analyse(buffer: RolloutBuffer, gains: dict[str, Gains]) -> dict[str, Any]:
    """Everything that is printed, as plain data."""
    advantages = all_advantages(buffer, gains)
    by_turn = {
        name: turn_means(buffer, values, on_queries=ALGORITHMS[name].on_queries) for name, values in advantages.items()
    }
    return {
        "questions": [[group.question.text, *group.question.golden_answers] for group in buffer.groups],
        "turns": turn_rows(buffer, gains, by_turn),
        "algorithms": summaries(buffer, gains, advantages, by_turn),
        "notes": notes(buffer, gains),
        "information_gain": {
            name: gain_statistics(buffer, gains[name], config.dead_zone) for name, config in INFORMATION_GAINS.items()
        },
        "anchors_alone": anchors_alone(buffer),
        "groups": group_outcomes(buffer),
    }


def notes(buffer: RolloutBuffer, gains: dict[str, Gains]) -> list[str]:
    """Notes that explain the numbers."""
    found = list(NOTES)
    for name, entry in ALGORITHMS.items():
        if entry.reads is not None and not any(gains[entry.reads]):
            lacking = f"No information gain over {entry.reads!r} in this buffer"
            found.append(f"{lacking}, so {name} is left out; see --policy.")
    if any(len(trajectory.attempts) > 1 for trajectory in buffer.trajectories):
        found.append("Outcomes are those of last attempts; only MR-Search uses earlier ones.")
    if any(len(group.trajectories) == 1 for group in buffer.groups):
        found.append("A group of one keeps its reward in GRPO and RLOO, and has advantage 0 in MR-Search.")
    return found
