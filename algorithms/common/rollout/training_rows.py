"""`training_rows`: a buffer and its advantages as plain rows of token ids, for the trainers of other projects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from igsearch_env.trajectory import Trajectory


@dataclass(frozen=True)
class TrainingRow:
    """One trajectory in the form that trainers of language models take.

    The completion is everything after the prompt up to the last token of the policy: its turns, and the observations
    between them. All arrays have one entry per token of the completion.
    """

    trajectory: Trajectory
    group: int
    """Number of the group (of the question) that the trajectory is compared with."""
    prompt_ids: NDArray[np.int64]
    completion_ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    """True on the tokens that the policy wrote, to which the loss applies."""
    logprobs: Float32s
    """Log-prob of each token by the policy that sampled it, at the sampling temperature; 0 outside the mask."""
    advantages: Float32s
    """Advantage of each token; 0 outside the mask."""


def training_rows(buffer: RolloutBuffer, advantages: Float32s) -> list[TrainingRow]:
    """One row per trajectory of a buffer, in its order.

    Args:
        buffer: recorded by a rollout.
        advantages: one per policy token in the buffer's flat layout, as `Algorithm.advantages` returns them.

    Raises `RolloutBufferError` for another number of advantages, or a trajectory without tokens.
    """
    buffer.check_trainable()
    expected = int(buffer.policy_tokens.sum())
    if np.shape(advantages) != (expected,):
        raise RolloutBufferError(
            f"advantages has shape {np.shape(advantages)}: it must be {(expected,)}, one value per policy token; pass "
            "what Algorithm.advantages returned for this buffer"
        )
    rows = []
    places = zip(buffer.trajectories, buffer.sequences, buffer.first_token, buffer.group_index, strict=True)
    for trajectory, sequence, first, group in places:
        prompt = len(trajectory.prompt_ids)
        mask = sequence.mask[prompt:]
        logprobs = np.zeros(len(mask), dtype=np.float32)
        values = np.zeros(len(mask), dtype=np.float32)
        logprobs[mask] = sequence.logprobs
        values[mask] = advantages[first : first + int(mask.sum())]
        rows.append(
            TrainingRow(trajectory, int(group), sequence.ids[:prompt], sequence.ids[prompt:], mask, logprobs, values)
        )
    return rows
