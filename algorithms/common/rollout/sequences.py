"""Trajectories as tokens with their loss mask, which is made only here, and as padded tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igsearch_env.trajectory import Trajectory, Turn

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenSequence:
    """A trajectory as tokens. `mask` is True exactly on the policy's tokens; `logprobs` has one entry per True."""

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    logprobs: NDArray[np.float32]


class QueryTokens(NamedTuple):
    """The tokens of the query of one search."""

    row: int
    """Index of its trajectory in `buffer.trajectories`."""
    turn: Turn
    """The turn that searched; its information gain is `turn.gain`."""
    tokens: slice
    """Where the tokens are in the flat layout."""


@dataclass(frozen=True)
class MicroBatch:
    """Padded tensors of some trajectories. `mask_BT[b, t]`: token t of row b is the policy's (loss applies)."""

    rows: list[int]
    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    old_logprobs_BT: torch.Tensor
    advantages_BT: torch.Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        tensors = (self.ids_BT, self.mask_BT, self.old_logprobs_BT, self.advantages_BT)
        return MicroBatch(self.rows, *(tensor.to(device) for tensor in tensors))


def token_sequence(trajectory: Trajectory) -> TokenSequence:
    """A trajectory as the policy read and wrote it, up to its last policy token."""
    ids: list[int] = list(trajectory.prompt_ids)
    mask = [False] * len(ids)
    logprobs: list[float] = []
    for turn in trajectory.turns:
        ids += turn.completion_ids
        mask += [True] * len(turn.completion_ids)
        logprobs += turn.logprobs
        ids += turn.observation_ids
        mask += [False] * len(turn.observation_ids)
    # Observations after the last policy token do not affect the loss and are left out.
    length = len(mask) - mask[::-1].index(True) if any(mask) else len(mask)
    return TokenSequence(
        np.array(ids[:length], dtype=np.int64),
        np.array(mask[:length], dtype=np.bool_),
        np.array(logprobs, dtype=np.float32),
    )
