"""`TurnDecoder`: the interface by which a rollout has turns written, whatever writes them."""

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
    prefill()                               read all that is queued
    decode_step() -> finished turns         write on, for every slot that is writing
    end(slot)                               free the slot
    """

    policy: Policy
    max_new_tokens: int

    @property
    def free(self) -> int:
        """Slots that can be taken."""
        ...

    @property
    def writing(self) -> int:
        """Slots in the middle of a turn."""
        ...

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        """Take a slot for an episode; `generator` decides all its draws."""
        ...

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        """Queue the next turn of an episode: what it observed after its last one."""
        ...

    def prefill(self) -> None:
        """Read everything that is queued."""
        ...

    def decode_step(self) -> list[tuple[int, Completion]]:
        """Write on; returns the turns that are finished now, with their slots."""
        ...

    def end(self, slot: int) -> None:
        """Let another episode take the slot."""
        ...

    def prefixes(self) -> CachedPrefixes | None:
        """What the slots hold now, for passes that continue it; None where nothing can be continued."""
        ...
