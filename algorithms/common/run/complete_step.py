"""`CompleteStep`: the last step that a run has completed, and whether the weights are still those after it."""

from __future__ import annotations

from collections.abc import Sequence

from algorithms.common.training.learner import Learner


class CompleteStep:
    """A step is complete when its update has ended and its metrics are logged.

    Args:
        number: of the step whose weights the learners have; 0 before the first.
        learners: of the policy and the critic.
    """

    def __init__(self, number: int, learners: Sequence[Learner]) -> None:
        self._learners = learners
        self.reached(number)

    def reached(self, number: int) -> None:
        """The step is complete."""
        self.number = number
        self._begun = self._updates()

    @property
    def is_current(self) -> bool:
        """Whether no optimizer step has begun since, so that a checkpoint of the step can be written."""
        return self._begun == self._updates()

    def _updates(self) -> list[int]:
        return [learner.steps_begun for learner in self._learners]
