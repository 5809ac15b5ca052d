"""What TIPS and potential-based IG-GRPO give on golden cases: one function per kind, outputs by the names there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from golden_reader import Case

from algorithms.common.training.segments import segment_advantages
from algorithms.ig_grpo_potential import IGGRPOPotential, IGGRPOPotentialConfig
from algorithms.tips import TIPS, TIPSConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.information_gain import log_sum_exp
from igsearch_env.scorers import weighted_mean
from igsearch_env.trajectory import Gain, Trajectory

Outputs = dict[str, Any]


def _episode(potentials: list[float], tokens: list[int], outcome: float, number: int = 0) -> Trajectory:
    """Searches that move the golden answer's log-prob from each potential to the next, then an answer."""
    turns = [search_turn(range(length), observation_ids=(7, 7)) for length in tokens[:-1]]
    for turn, (before, after) in zip(turns, pairwise(potentials), strict=True):
        turn.gain = Gain(after - before, after, before)
    return trajectory([*turns, answer_turn(range(tokens[-1]))], outcome, number)


def potentials(case: Case) -> Outputs:
    """TIPS's potential at each boundary, from the log-probs of every alias's tokens."""
    rows = case.get("answer_token_logprobs")
    phi = [log_sum_exp([weighted_mean(alias, head_weight=1.0) for alias in aliases]) for aliases in rows]
    return {"phi": phi, "delta_phi": [after - before for before, after in pairwise(phi)]}


def rewards(case: Case) -> Outputs:
    """TIPS's reward of each policy token, with its scale: read off the one search that gained 0.9375."""
    if case.has("delta_phi_scale"):
        config = TIPSConfig(scale=case.get("delta_phi_scale"))
    else:
        config = TIPSConfig(target_scale=(case.get("target_scale_min") + case.get("target_scale_max")) / 2)
    episodes = case.get("episodes")
    buffer = buffer_of([[_episode(e["phi"], e["turn_tokens"], e["outcome"]) for e in episodes]])
    ours = np.split(TIPS(config).rewards(buffer), buffer.first_token[1:])
    first = episodes[0]
    scale = ours[0][first["turn_tokens"][0] - 1] / (first["phi"][1] - first["phi"][0])
    for row, one in zip(ours, episodes, strict=True):
        row[-1] -= scale * one["phi"][0]  # ours are relative to the potential of the prompt
    return {"rewards": [row.tolist() for row in ours], "scale": float(scale)}


def segments(case: Case) -> Outputs:
    """TIPS's group form, per turn."""
    rollouts = case.get("rollouts")
    lengths = [len(row["turn_tokens"]) for row in rollouts]
    per_turn = segment_advantages(
        [reward for row in rollouts for reward in [*row["search_rewards"], 0.0]],
        [[True] * (length - 1) + [False] for length in lengths],
        [count for row in rollouts for count in row["turn_tokens"]],
        [row["outcome"] for row in rollouts],
        case.get("group"),
    )
    return {"turn_advantages": [row.tolist() for row in np.split(per_turn, np.cumsum(lengths)[:-1])]}


def shaped_returns(case: Case) -> Outputs:
    """IG-GRPO with potential-based shaping, per turn of one token."""
    config = IGGRPOPotentialConfig(alpha=case.get("alpha"), gamma=case.get("gamma"), gain=case.get("gain"))
    groups = case.get("groups")
    buffer = buffer_of(
        [
            [_episode(e["logprobs"], [1] * len(e["logprobs"]), e["outcome"], number) for e in group]
            for number, group in enumerate(groups)
        ]
    )
    rows = iter(np.split(IGGRPOPotential(config).advantages(buffer), buffer.first_token[1:]))
    return {"turn_adv": [[next(rows).tolist() for _ in group] for group in groups]}
