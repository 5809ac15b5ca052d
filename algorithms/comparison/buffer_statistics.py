"""Learning signals of a buffer: information gains, GiGPO's anchors, differences of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.advantages import group_statistics
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.comparison.gains import Gains
from algorithms.gigpo import GiGPOConfig, anchor_states

ZERO = 1e-6  # smaller numbers are rounding errors


def gain_statistics(buffer: RolloutBuffer, gains: Gains, dead_zone: float) -> dict[str, Any]:
    """Information gain of all searches, by their number in the episode, and its correlation with the outcome."""
    rest = iter(gains)
    episodes: list[list[float]] = []
    searches: dict[str, list[float]] = {"all": []}
    for trajectory in buffer.trajectories:
        of_searches = [gain for turn, gain in [(turn, next(rest)) for turn in trajectory.turns] if turn.is_search]
        numbered = [(number, gain.value) for number, gain in enumerate(of_searches, start=1) if gain]
        episodes.append([value for _, value in numbered])
        for number, value in numbered:
            searches["all"].append(value)
            searches.setdefault(str(number), []).append(value)
    some = [row for row, values in enumerate(episodes) if values]
    outcomes, groups = buffer.outcomes[some].astype(np.float64), buffer.group_index[some]
    correlations: dict[str, float | None] = {}
    for name, pick in (("mean", np.mean), ("last", itemgetter(-1))):
        picked = np.array([pick(episodes[row]) for row in some])
        within = [x - group_statistics(x, groups)[0] for x in (picked, outcomes)]
        correlations |= {name: correlation(picked, outcomes), f"{name}_within_groups": correlation(*within)}
    order = ["all", *sorted(searches.keys() - {"all"}, key=int)]
    return {
        "searches": {name: spread(searches[name], dead_zone) for name in order},
        "correlation_with_outcome": correlations,
    }


def spread(values: Sequence[float], dead_zone: float) -> dict[str, float]:
    """Statistics of some information gains; only the count if there are none."""
    x = np.array(values)
    if not len(x):
        return {"count": 0}
    means = {"mean": x.mean(), "variance": x.var(), "min": x.min(), "max": x.max()}
    shares = {"positive": np.mean(x > 0), "dead_zone": np.mean(np.abs(x) < dead_zone)}
    return {"count": len(x), **{name: float(value) for name, value in (means | shares).items()}}


def anchors_alone(buffer: RolloutBuffer) -> dict[str, dict[str, float | None]]:
    """GiGPO: share of turns whose anchor matches no other, of all and those after the first (whose anchor is shared).

    Anchors match if they are equal (`exact`), or by GiGPO's default similarity (`similar`).
    """
    counts = [len(t.turns) for t in buffer.trajectories]
    anchors = [anchor for t in buffer.trajectories for anchor in anchor_states(t)]
    later = np.concatenate([np.arange(count) > 0 for count in counts])
    shares: dict[str, dict[str, float | None]] = {}
    for name, similarity in (("exact", None), ("similar", GiGPOConfig().similarity)):
        clusters = anchor_clusters(anchors, np.repeat(buffer.group_index, counts), similarity)
        alone = np.bincount(clusters)[clusters] == 1
        shares[name] = {"all": float(alone.mean()), "later": float(alone[later].mean()) if later.any() else None}
    return shares


def group_outcomes(buffer: RolloutBuffer) -> dict[str, float]:
    """Share of the groups whose outcomes are all equal, split into all 0 and all above 0."""
    outcomes = [{t.outcome for t in group.trajectories} for group in buffer.groups]
    fail = float(np.mean([found == {0} for found in outcomes]))
    equal = float(np.mean([len(found) == 1 for found in outcomes]))
    return {"count": len(outcomes), "all_equal": equal, "all_fail": fail, "all_succeed": equal - fail}


def correlation(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson correlation; None if one of the two is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and min(np.std(a), np.std(b)) > ZERO else None
