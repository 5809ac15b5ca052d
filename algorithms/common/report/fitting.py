"""Pages of recorded steps that are no larger than a limit: they show fewer steps, then fewer groups, and say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from algorithms.common.run.recorded_trajectories import RecordedStep

MakePage = Callable[[Sequence[RecordedStep], Sequence[str]], str]
"""Makes a document of recorded steps, with notes below its title."""


def fitting(recorded: Sequence[RecordedStep], make: MakePage, notes: Sequence[str], limit: int) -> str:
    """The page with at most `limit` bytes: drops every other step, then the last half of the groups of each.

    Keeps the first and the last step with at least one group each; a note states how many groups are shown, and of
    how many steps.
    """
    shown = list(recorded)
    document = make(shown, notes)
    while len(document.encode(errors="replace")) > limit:
        if len(shown) > 2:
            shown = [*shown[:-1:2], shown[-1]] if len(shown) > 3 else [shown[0], shown[-1]]
        elif all(len(file.groups) < 2 for file in shown):
            break
        else:
            shown = [replace(file, groups=file.groups[: (len(file.groups) + 1) // 2]) for file in shown]
        document = make(shown, [*notes, _left_out(shown, recorded, limit)])
    return document


def _left_out(shown: Sequence[RecordedStep], recorded: Sequence[RecordedStep], limit: int) -> str:
    """What a page shows of what was recorded, in one sentence."""
    groups, every = (sum(len(file.groups) for file in steps) for steps in (shown, recorded))
    of_steps = f" of {len(shown)} of {len(recorded)} recorded steps" if len(shown) < len(recorded) else ""
    return f"Shows {groups} of {every} recorded groups{of_steps}: a page has at most {limit / 1e6:g} MB."
