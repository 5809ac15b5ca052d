"""`TurnDecoder`: the interface between a rollout and the decoder or engine that writes its turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from algorithms.common.model.kv_cache import CachedPrefixes, Ids
from algorithms.common.model.policy import Policy


@dataclass(frozen=True)
class Completion:
    """What the policy wrote in one turn: ids and their log-probs under the sampling distribution."""

    ids: Ids
    logprobs: tuple[float, ...]


class TurnDecoder(Protocol):
    """Writes the turns of many episodes. Each live episode holds a slot.

    begin(prompt) -> slot                   queue a prompt to read
    append_observation(slot, observation)   queue an observation to read
    prefill()                               prefill all that is queued
    decode_step() -> finished turns         decode, for every slot that is writing
    end(slot)                               free the slot
    cancel()                                free all slots, whatever is being written
    """

    policy: Policy
    max_new_tokens: int
    asynchronous: bool
    """Whether each episode of a rollout continues on its own (`rollout/asynchronous.py`)."""
    prefill_share: float
    """An asynchronous rollout calls `prefill` once this share of the episodes that are not searching is queued, or
    nothing is being written. 0: whenever anything is queued."""

    @property
    def free(self) -> int:
        """Number of free slots."""
        ...

    @property
    def writing(self) -> int:
        """Number of slots in the middle of a turn."""
        ...

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        """Take a slot for an episode; `generator` makes all its draws."""
        ...

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        """Queue the next turn of an episode, after the observation."""
        ...

    def prefill(self) -> None:
        """Prefill everything that is queued."""
        ...

    def decode_step(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """Decode further; returns the turns that are finished, with their slots.

        `timeout`: seconds after which a decoder that waits for an engine returns, perhaps without a turn.
        """
        ...

    def end(self, slot: int) -> None:
        """Free the slot for another episode."""
        ...

    def cancel(self) -> None:
        """Stop writing, drop what is queued and free all slots."""
        ...

    def prefixes(self) -> CachedPrefixes | None:
        """The sequences stored in the slots, for other passes to continue; None if they are not accessible."""
        ...
