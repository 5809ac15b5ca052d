"""`SkeletonReader`: contexts and evidence of searches in the form that the authors' released code builds.

A transcript is read as text (`protocols/skeleton.py`): as a tokenizer decodes all tokens of the episode, chat template
included, or as the environment recorded it, where no tokens are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from igsearch_env.errors import ConfigurationError
from igsearch_env.evidence import Evidence, SearchStep
from igsearch_env.protocols import Protocol
from igsearch_env.protocols.skeleton import Skeleton
from igsearch_env.scorers import Segment
from igsearch_env.trajectory import Trajectory, Turn

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class _Read:
    skeleton: Skeleton
    observations: list[tuple[int, int]]  # characters of the observation of each turn in the transcript


class SkeletonReader:
    """Reads each trajectory once, as it is at the first call.

    `decode`: text of token ids, special tokens included; None: the texts that the environment recorded are read.
    """

    def __init__(self, protocol: Protocol, decode: Decode | None = None) -> None:
        self.protocol, self.decode = protocol, decode
        self._read: dict[int, tuple[Trajectory, _Read]] = {}  # the trajectory is held so that its id stays its own

    def context(self, step: SearchStep) -> Segment:
        """The text before the evidence of a step, up to and including the search that is paired with it."""
        read, number = self._place(step)
        return Segment(read.skeleton.context(number))

    def evidence(self, step: SearchStep) -> Evidence:
        """The evidence of a step with its refinement."""
        read, number = self._place(step)
        question, found = step.trajectory.question, read.skeleton.steps[number]
        return Evidence((question.dataset, question.id), step.index, found.evidence, found.refine)

    def _place(self, step: SearchStep) -> tuple[_Read, int]:
        """The skeleton of the step's trajectory, and which of its steps ends in the observation of the search."""
        key = id(step.trajectory)
        if key not in self._read:
            self._read[key] = (step.trajectory, self._parse(step.trajectory))
        _, read = self._read[key]
        start, end = read.observations[step.index]
        for number, found in enumerate(read.skeleton.steps):
            if start < found.end <= end:
                return read, number
        shown = step.trajectory.turns[step.index].observation
        raise ConfigurationError(
            f"question {step.trajectory.question.id!r}: the observation {shown!r} contains no passages in the form of "
            f"protocol={self.protocol.name!r}; measure trajectories with the protocol that they were played with"
        )

    def _observation(self, turn: Turn) -> str:
        """What was read after a turn; a search that was made by hand may say only what was found."""
        return turn.observation or (self.protocol.observation(turn.passages) if turn.passages else "")

    def _parse(self, trajectory: Trajectory) -> _Read:
        turns = trajectory.turns
        recorded = trajectory.prompt_ids and all(turn.completion_ids for turn in turns)
        if self.decode is None or not recorded:
            pieces = [trajectory.opening, *chain(*((turn.text, self._observation(turn)) for turn in turns))]
            text = "".join(pieces)
            ends = list(accumulate(map(len, pieces)))
        else:
            ids = [trajectory.prompt_ids, *chain(*((turn.completion_ids, turn.observation_ids) for turn in turns))]
            text = self.decode(tuple(chain(*ids)))
            ends = [len(self.decode(tuple(chain(*ids[: number + 1])))) for number in range(len(ids))]
        observations = [(ends[2 * number + 1], ends[2 * number + 2]) for number in range(len(turns))]
        return _Read(self.protocol.skeleton(text, ends[0]), observations)
