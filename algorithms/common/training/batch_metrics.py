"""Metrics of a batch of rollouts for the logs. The names are stable: plots and alerts rely on them.

Shares are in [0, 1], lengths in tokens, gains in nats, times in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import all_equal_share
from algorithms.common.training.hacking_metrics import hacking_metrics
from algorithms.common.training.turn_rewards import repeating_turns
from igsearch_env.protocols import Answer, Invalid
from igsearch_env.trajectory import RETRIEVAL_FAILED, STOP_REASONS, Trajectory

Flags = NDArray[np.bool_]


def batch_metrics(buffer: RolloutBuffer, advantages: Float32s, *, max_searches: int) -> dict[str, float]:
    """Statistics of a buffer that `check_trainable` accepts; `max_searches` is that of its environment.

    Keys under `information_gain/` exist if any search has a gain. `stop/` and `retrieval_failure_rate` are shares of
    all `episodes`, including those that a failed retrieval excluded from the buffer; `correct` and `answered` are
    shares of the trajectories, `searches/at_limit` of the attempts. A search after the last allowed call is not
    executed, and counts in `searches` only.

    Metrics of reward hacking are those of `hacking_metrics`.
    """
    trajectories = buffer.trajectories
    turns = [turn for t in trajectories for turn in t.turns]
    places = np.fromiter((place for t in trajectories for place in _places(t)), dtype=np.int64, count=len(turns))
    answers = np.array([isinstance(turn.action, Answer) for turn in turns])
    invalid = np.array([isinstance(turn.action, Invalid) for turn in turns])
    searches = np.array([turn.is_search for turn in turns])
    made = searches & (places <= max_searches)
    repeated = repeating_turns(buffer)
    empty = np.array([not turn.passages for turn in turns])
    measured = np.array([turn.gain is not None for turn in turns])

    correct = buffer.outcomes > 0
    correct_G = np.bincount(buffer.group_index, correct, len(buffer.groups))
    episodes = len(trajectories) + buffer.failed
    stops = Counter(t.stop_reason for t in trajectories)
    stops[RETRIEVAL_FAILED] += buffer.failed
    totals = np.array([t.tokens for t in trajectories])
    observations = np.array([len(turn.observation_ids) for turn in turns])
    longest = buffer.turn_tokens.max()

    metrics = {
        "reward": float(buffer.outcomes.mean()),
        "searches": int(searches.sum()) / len(trajectories),
        "searches/at_limit": _share(~answers, places == max_searches, places == 1),
        "searches/repeated": _share(repeated, made, made),
        "searches/empty": _share(empty, made, made),
        "answered": stops["answered"] / len(trajectories),
        "correct": float(correct.mean()),
        "invalid_actions": float(invalid.mean()),
        "all_fail": float((correct_G == 0).mean()),
        "all_equal": all_equal_share(buffer.outcomes, buffer.group_index),
        "response_tokens": float(buffer.policy_tokens.mean()),
        "length/prompt_mean": float(np.mean([len(t.prompt_ids) for t in trajectories])),
        "length/total_mean": float(totals.mean()),
        "length/total_max": float(totals.max()),
        "length/observation_mean": float(observations[observations > 0].mean()) if observations.any() else 0.0,
        "length/turn_max": float(longest),
        # A turn that was truncated at its limit has no complete action, and no turn is longer.
        "length/cut_share": float((invalid & (buffer.turn_tokens == longest)).mean()),
        "episodes": float(episodes),
        "retrieval_failures": float(buffer.failed),
        "retrieval_failure_rate": buffer.failed / episodes,
        "attempts": float(buffer.metadata.get("attempts", 0)),
        # An unbiased estimate over all tokens: an update may read only some.
        "policy/entropy": -float(buffer.logprobs.sum() / max(len(buffer.logprobs), 1)),
        "advantage/abs_mean": float(np.abs(advantages).mean()),
        "advantage/zero_share": float((advantages == 0).mean()),
    }
    metrics |= {f"stop/{reason}": stops[reason] / episodes for reason in STOP_REASONS}
    metrics |= hacking_metrics(buffer, advantages, made)
    gains = np.array([turn.gain.value for turn in turns if turn.gain is not None])
    if len(gains):
        p10, p50, p90 = np.quantile(gains, (0.1, 0.5, 0.9))
        metrics |= {
            "information_gain/mean": float(np.mean(gains)),
            "information_gain/std": float(np.std(gains)),
            "information_gain/positive_share": float(np.mean(gains > 0)),
            "information_gain/p10": float(p10),
            "information_gain/p50": float(p50),
            "information_gain/p90": float(p90),
            "information_gain/unmeasured_share": _share(~measured, made, made),
        }
    return metrics


def throughput(buffer: RolloutBuffer, times: Mapping[str, float]) -> dict[str, float]:
    """Trajectories and tokens per second; `times` has the seconds of `time/step` and `time/rollout`, above 0.

    `time/tokens_per_second` counts all tokens of the trajectories, including prompts and passages;
    `time/written_tokens_per_second` counts policy tokens, over the time of the rollout only, including what of it ran
    during earlier updates (`time/rollout_hidden`).
    """
    rollout = times["time/rollout"] + times.get("time/rollout_hidden", 0.0)
    return {
        "time/tokens_per_second": sum(t.tokens for t in buffer.trajectories) / times["time/step"],
        "time/written_tokens_per_second": int(buffer.policy_tokens.sum()) / rollout,
        "time/trajectories_per_second": len(buffer.trajectories) / times["time/step"],
    }


def _places(trajectory: Trajectory) -> Iterator[int]:
    """The place of each turn within its attempt, from 1, which the episode's search limit applies to."""
    place = 0
    ends = {attempt.end for attempt in trajectory.attempts}
    for number in range(len(trajectory.turns)):
        place = 1 if number in ends else place + 1
        yield place


def _share(flags: Flags, among: Flags, of: Flags) -> float:
    """Number of turns in `among` with the flag, divided by the number of turns in `of`; 0 if that is 0."""
    total = int(of.sum())
    return int((flags & among).sum()) / total if total else 0.0
