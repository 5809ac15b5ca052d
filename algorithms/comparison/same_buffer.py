"""Every algorithm on one buffer: advantages side by side, where they agree and differ, and the information gain.

Plain data for `examples/same_buffer.py` to print. An advantage of a turn is the mean over its tokens (IG-GRPO: over its
query's tokens, where it has any).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from algorithms.common.training.advantages import group_statistics
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.comparison.registry import ALGORITHMS, BASELINES, READS, WHITENED
from algorithms.gigpo import GiGPOConfig, anchor_states
from igsearch_env.protocols import Answer, Search
from igsearch_env.trajectory import Gain, Turn

ZERO = 1e-6  # a smaller advantage is rounding
NOTES = (
    "PPO has a critic that says 0 everywhere, as before its first update.",
    "DAPO and GSPO are not here: they differ from GRPO in sampling and in the loss, not in the advantages.",
)
WHY = {  # always so; what depends on the buffer is in `why_alike`
    "dr_grpo": "GRPO without the division by the group's deviation",
    "rloo": "Dr. GRPO times n / (n - 1)",
    "ppo": "its critic says 0 and nothing is discounted",
}

Gains = list[Gain | None]  # of every turn of a buffer, in its order


def analyse(buffer: RolloutBuffer, gains: dict[str, Gains]) -> dict[str, Any]:
    """Everything that is printed, as plain data."""
    advantages = all_advantages(buffer, gains)
    by_turn = {name: turn_means(buffer, values, query=name == "ig_grpo") for name, values in advantages.items()}
    return {
        "questions": [[group.question.text, *group.question.golden_answers] for group in buffer.groups],
        "turns": turn_rows(buffer, gains, by_turn),
        "algorithms": summaries(buffer, gains, advantages, by_turn),
        "notes": notes(buffer, gains),
        "information_gain": {
            name: gain_statistics(buffer, gains[name], config.dead_zone) for name, config in BASELINES.items()
        },
        "anchors_alone": anchors_alone(buffer),
        "groups": group_outcomes(buffer),
    }


def all_advantages(buffer: RolloutBuffer, gains: dict[str, Gains]) -> dict[str, Float32s]:
    """Advantages per policy token, of each algorithm with the information gain that it reads.

    An algorithm whose gains were not measured is left out.
    """
    buffer.values = np.zeros(int(buffer.policy_tokens.sum()), dtype=np.float32)
    result = {}
    for name, (_, algorithm) in ALGORITHMS.items():
        set_gains(buffer, gains[READS.get(name, "random")])
        with suppress(RolloutBufferError):
            result[name] = algorithm.advantages(buffer)
    return result


def turn_means(buffer: RolloutBuffer, advantages: Float32s, *, query: bool = False) -> list[float]:
    """Mean advantage of each turn's tokens, or of its `query` tokens if it has any; 0 for a turn without tokens."""
    means, start = [], 0
    for turn in turns_of(buffer):
        tokens = advantages[start : start + len(turn.completion_ids)]
        asked = tokens[slice(*turn.query_span)] if query and turn.query_span else tokens[:0]
        chosen = asked if len(asked) else tokens
        means.append(float(chosen.mean()) if len(chosen) else 0.0)
        start += len(turn.completion_ids)
    return means


def signs(values: ArrayLike) -> NDArray[np.int64]:
    """-1, 0 or 1, rounding being 0."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(array) < ZERO, 0, np.sign(array)).astype(np.int64)


def turn_rows(buffer: RolloutBuffer, gains: dict[str, Gains], by_turn: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Every turn. It is `disputed` if one algorithm rewards it and another punishes it.

    Algorithms that whiten over the batch have no say in that: they shift all turns alike, past 0.
    """
    rows: list[dict[str, Any]] = []
    for episode, (group, trajectory) in enumerate(zip(buffer.group_index.tolist(), buffer.trajectories, strict=True)):
        for number, turn in enumerate(trajectory.turns):
            place = len(rows)
            found = signs([means[place] for name, means in by_turn.items() if name not in WHITENED])
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
    """What each algorithm has to say of the whole buffer, and which others say the same."""
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
            "why": why_alike(name, buffer, gains) if own.any() else "no signal at all",
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
    """Why an algorithm may say what another one says, where that is known."""
    known = [gain.value for gain in gains[READS.get(name, "random")] if gain]
    match name:
        case "ig_grpo" | "igpo" if not known:
            return "no search has an information gain"
        case "ig_grpo" if not any(map(BASELINES["random"].stabilise, known)):
            return "every information gain is in the dead zone"
        case "gigpo" if len(turns_of(buffer)) == len(buffer.trajectories):
            return "episodes of one turn: its two comparisons are the same"
        case "gigpo" if anchors_alone(buffer)["similar"]["all"] == 1:
            return "every turn is alone with its anchor"
        case "mr_search" if all(len(trajectory.attempts) < 2 for trajectory in buffer.trajectories):
            return "no second attempts: RLOO"
    return WHY.get(name, "")


def correlation(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's; None where one of the two does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and min(np.std(a), np.std(b)) > ZERO else None


def anchors_alone(buffer: RolloutBuffer) -> dict[str, dict[str, float | None]]:
    """GiGPO: share of turns alone with their anchor, of all and of those after the first (whose anchor all share).

    Anchors are the same where equal (`exact`), or by the similarity that is GiGPO's default (`similar`).
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
    """Statistics of some information gains; of none, their count alone."""
    x = np.array(values)
    if not len(x):
        return {"count": 0}
    means = {"mean": x.mean(), "variance": x.var(), "min": x.min(), "max": x.max()}
    shares = {"positive": np.mean(x > 0), "dead_zone": np.mean(np.abs(x) < dead_zone)}
    return {"count": len(x), **{name: float(value) for name, value in (means | shares).items()}}


def group_outcomes(buffer: RolloutBuffer) -> dict[str, float]:
    """Share of the groups whose outcomes are all equal: all 0, or all above."""
    outcomes = [{t.outcome for t in group.trajectories} for group in buffer.groups]
    fail = float(np.mean([found == {0} for found in outcomes]))
    equal = float(np.mean([len(found) == 1 for found in outcomes]))
    return {"count": len(outcomes), "all_equal": equal, "all_fail": fail, "all_succeed": equal - fail}


def notes(buffer: RolloutBuffer, gains: dict[str, Gains]) -> list[str]:
    """What a reader of the numbers has to know."""
    found = list(NOTES)
    for name, baseline in READS.items():
        if not any(gains[baseline]):
            found.append(f"No information gain over {baseline!r} in this buffer, so {name} is without; see --policy.")
    if any(len(trajectory.attempts) > 1 for trajectory in buffer.trajectories):
        found.append("Outcomes are those of last attempts; MR-Search alone looks at those before.")
    if any(len(group.trajectories) == 1 for group in buffer.groups):
        found.append("A group of one keeps its reward in GRPO and RLOO, and has 0 in MR-Search.")
    return found


def set_gains(buffer: RolloutBuffer, gains: Gains) -> None:
    """Put the gains where algorithms read them."""
    for turn, gain in zip(turns_of(buffer), gains, strict=True):
        turn.gain = gain


def turns_of(buffer: RolloutBuffer) -> list[Turn]:
    """All turns, in order."""
    return [turn for trajectory in buffer.trajectories for turn in trajectory.turns]
