"""The interface between the trainer and an algorithm: the base class of every algorithm in `algorithms/`."""

from __future__ import annotations

from algorithms.common.rollout.buffer import Flags, Float32s, RolloutBuffer
from algorithms.common.training.config import CriticConfig
from igsearch_env.trajectory import Group
from retrievers.extras import require_for_program

# Here, before an algorithm is set up; torch itself is imported when a run begins.
require_for_program("torch", "training")


class Algorithm:
    """Estimates the advantages of a batch. The trainer uses no other part of an algorithm."""

    name: str
    """Name of the algorithm, which run folders are named after."""
    needs_information_gain = False
    """Whether the trainer must measure the `gain` of every search before it calls `advantages`."""
    needs_reference = False
    """Whether the trainer must compute `buffer.reference_logprobs` with the starting policy."""
    critic: CriticConfig | None = None
    """Configuration of a critic; if set, the trainer fills `buffer.values` and calls `value_targets`."""

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token, in the buffer's flat layout.

        They depend on the buffer alone: it is called for each training batch, and for the tracked questions too.
        """
        raise NotImplementedError

    def value_targets(self, buffer: RolloutBuffer) -> Float32s:
        """Regression targets of the critic, one per policy token; called only if `critic` is set."""
        raise NotImplementedError

    def value_mask(self, buffer: RolloutBuffer) -> Flags | None:
        """The policy tokens whose values the critic is trained on; None: all of them. Other targets are ignored."""
        return None

    def keep(self, group: Group) -> bool:
        """Whether to train on this group; other groups are replaced by new ones (DAPO's dynamic sampling)."""
        return True
