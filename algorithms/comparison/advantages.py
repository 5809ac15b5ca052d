"""Every algorithm's advantages on one buffer: turn by turn, and where the algorithms agree and differ.

The advantage of a turn is the mean over its tokens, or over its query's tokens for algorithms with `on_queries`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from algorithms.comparison.buffer_statistics import ZERO, anchors_alone, correlation
from algorithms.comparison.gains import Gains, set_gains, turns_of
from algorithms.comparison.registry import ALGORITHMS
from igsearch_env.protocols import Answer, Search
from igsearch_env.trajectory import Turn


def all_advantages(buffer: RolloutBuffer, gains: dict[str, Gains]) -> dict[str, Float32s]:
    """Advantages per policy token, of each algorithm, with the information gain that it uses.

    An algorithm whose gains were not measured is left out.
    """
    buffer.values = np.zeros(int(buffer.policy_tokens.sum()), dtype=np.float32)
    result = {}
    for name, entry in ALGORITHMS.items():
        if entry.reads is not None:
            set_gains(buffer, gains[entry.reads])
        with suppress(RolloutBufferError):
            result[name] = entry.algorithm.advantages(buffer)
    return result


def turn_means(buffer: RolloutBuffer, advantages: Float32s, *, on_queries: bool) -> list[float]:
    """Mean advantage of each turn's tokens; with `on_queries`, of its query's tokens if any; 0 without tokens."""
    means, start = [], 0
    for turn in turns_of(buffer):
        tokens = advantages[start : start + len(turn.completion_ids)]
        asked = tokens[slice(*turn.query_span)] if on_queries and turn.query_span else tokens[:0]
        chosen = asked if len(asked) else tokens
        means.append(float(chosen.mean()) if len(chosen) else 0.0)
        start += len(turn.completion_ids)
    return means


def signs(values: ArrayLike) -> NDArray[np.int64]:
    """-1, 0 or 1; rounding errors count as 0."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(array) < ZERO, 0, np.sign(array)).astype(np.int64)


def turn_rows(buffer: RolloutBuffer, gains: dict[str, Gains], by_turn: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row per turn. A turn is `disputed` if one algorithm rewards it and another punishes it.

    Algorithms that whiten over the batch are not considered: they shift all turns equally, also across 0.
    """
    rows: list[dict[str, Any]] = []
    for episode, (group, trajectory) in enumerate(zip(buffer.group_index.tolist(), buffer.trajectories, strict=True)):
        for number, turn in enumerate(trajectory.turns):
            place = len(rows)
            found = signs([means[place] for name, means in by_turn.items() if not ALGORITHMS[name].whitened])
            row = {"group": group, "episode": episode, "turn": number, "written": written(turn)}
            row |= {"outcome": trajectory.outcome, "disputed": bool(found.min() < 0 < found.max())}
            row["gain"] = {name: gain.value if (gain := all_[place]) else None for name, all_ in gains.items()}
            rows.append(row | {"advantage": {name: means[place] for name, means in by_turn.items()}})
    return rows


def written(turn: Turn) -> str:
    """What a turn did, on one line."""
    match turn.action:
        case Search(content):
            kind = "search"
        case Answer(content):
            kind = "answer"
        case _:
            kind, content = "invalid", turn.text
    return f"{kind} {' '.join(content.split())}"


def summaries(
    buffer: RolloutBuffer, gains: dict[str, Gains], advantages: dict[str, Float32s], by_turn: dict[str, list[float]]
) -> dict[str, dict[str, Any]]:
    """Statistics of each algorithm over the whole buffer, and which others have the same advantages."""
    groups = np.repeat(buffer.group_index, buffer.policy_tokens)
    grpo = signs(by_turn["grpo"])
    result: dict[str, dict[str, Any]] = {}
    for name, values in advantages.items():
        own = signs(by_turn[name])
        like = "" if name == "grpo" else relation(values, advantages["grpo"], groups)
        same = [other for other in result if relation(values, advantages[other], groups) == "equal"]
        result[name] = {
            "zero_tokens": float(np.mean(signs(values) == 0)),
            "zero_groups": float(np.mean([not signs(values[groups == group]).any() for group in np.unique(groups)])),
            "mean_abs": float(np.abs(values).mean()),
            "sign_differs": float(np.mean(own != grpo)),
            "sign_opposite": float(np.mean(own * grpo < 0)),
            "correlation": correlation(by_turn[name], by_turn["grpo"]),
            "like_grpo": like,
            "same_as": same,
            "why": why_alike(name, buffer, gains) if own.any() else "no learning signal",
        }
    return result


def relation(ours: Float32s, theirs: Float32s, groups: NDArray[np.int64]) -> str:
    """How alike advantages are: "equal", "equal up to a factor of F", "equal up to a factor per group" or ""."""
    close = partial(np.allclose, rtol=1e-5, atol=ZERO)
    if close(ours, theirs):
        return "equal"
    factors = []
    for group in np.unique(groups):
        a, b = (x[groups == group].astype(np.float64) for x in (ours, theirs))
        factor = float(a @ b / (b @ b)) if signs(b).any() else 0.0
        if not close(a, factor * b):
            return ""
        if signs(b).any():
            factors.append(factor)
    if min(factors, default=0.0) <= 0:
        return ""
    return f"equal up to a factor {factors[0]:.3g}" if close(factors, factors[0]) else "equal up to a factor per group"


def why_alike(name: str, buffer: RolloutBuffer, gains: dict[str, Gains]) -> str:
    """Why an algorithm may have the same advantages as another one, if known."""
    entry = ALGORITHMS[name]
    if entry.gains is not None and entry.reads is not None:
        known = [gain.value for gain in gains[entry.reads] if gain]
        if not known:
            return "no search has an information gain"
        if name == "ig_grpo" and not any(map(entry.gains.stabilise, known)):
            return "every information gain is in the dead zone"
    match name:
        case "gigpo" if len(turns_of(buffer)) == len(buffer.trajectories):
            return "episodes of one turn: its two comparisons are the same"
        case "gigpo" if anchors_alone(buffer)["similar"]["all"] == 1:
            return "no two turns share an anchor"
        case "mr_search" if all(len(trajectory.attempts) < 2 for trajectory in buffer.trajectories):
            return "no second attempts: RLOO"
        case "cw_grpo":
            return "every round of every success is good"
    return entry.equality
