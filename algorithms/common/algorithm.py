"""What an algorithm is, to the trainer: the base class of every file in `algorithms/`."""

from __future__ import annotations

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.critic import CriticConfig
from igsearch_env.trajectory import Group


class Algorithm:
    """An estimator of advantages. The trainer knows nothing else of an algorithm."""

    name: str
    """Names run folders."""
    needs_information_gain = False
    """Whether every search's `gain` must be measured before `advantages` is called."""
    needs_reference = False
    """Whether `buffer.reference_logprobs`, of the starting policy, must be there."""
    critic: CriticConfig | None = None
    """The critic to learn beside the policy; then `buffer.values` is there, and `value_targets` is asked for."""

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token, in the buffer's flat layout."""
        raise NotImplementedError

    def value_targets(self, buffer: RolloutBuffer) -> Float32s:
        """What the critic should have said, per policy token; asked of algorithms with a critic alone."""
        raise NotImplementedError

    def keep(self, group: Group) -> bool:
        """Whether a group may teach; groups that may not are replaced by fresh ones (DAPO's dynamic sampling)."""
        return True
