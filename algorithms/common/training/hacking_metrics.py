"""Metrics of reward hacking in a batch of rollouts: how often each kind occurs, and what the algorithm pays for it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from igsearch_env.reward_hacking import KINDS, hacking_flags


def hacking_metrics(buffer: RolloutBuffer, advantages: Float32s, made: NDArray[np.bool_]) -> dict[str, float]:
    """For each kind of `hacking_flags` (unseen_answer, read_answer, over_search, redundant):

    searches/KIND: its share of the searches.
    information_gain/KIND_share: part of the sum of all positive gains that its searches earn, if gains were measured.
    information_gain/KIND_mean: mean gain of its searches, in nats, if one has a gain.
    advantage/KIND_mean: mean advantage of its queries (of each query, the mean over its tokens), if there are any.
        Above 0, the update makes such queries more likely, whether or not the algorithm uses gains.

    Args:
        buffer: its trajectories.
        advantages: one per policy token.
        made: of every turn of the buffer, in order, whether it is a search that was executed.
    """
    turns = [turn for trajectory in buffer.trajectories for turn in trajectory.turns]
    flags = [of_turn for trajectory in buffer.trajectories for of_turn in hacking_flags(trajectory)]
    gains = np.array([math.nan if turn.gain is None else turn.gain.value for turn in turns])
    places = {id(turn): place for place, turn in enumerate(turns)}
    of_query = np.full(len(turns), math.nan)
    for query in buffer.query_tokens():
        of_query[places[id(query.turn)]] = advantages[query.tokens].mean()
    measured, earned = ~np.isnan(gains), np.nansum(gains.clip(min=0))
    metrics: dict[str, float] = {}
    for kind in KINDS:
        found = made & np.array([getattr(of_turn, kind) for of_turn in flags], dtype=np.bool_)
        metrics[f"searches/{kind}"] = float(found.sum() / made.sum()) if made.any() else 0.0
        if measured.any():
            part = np.nansum(gains[found].clip(min=0))
            metrics[f"information_gain/{kind}_share"] = float(part / earned) if earned else 0.0
        for section, values in (("information_gain", gains), ("advantage", of_query)):
            chosen = values[found & ~np.isnan(values)]
            if len(chosen):
                metrics[f"{section}/{kind}_mean"] = float(chosen.mean())
    return metrics
