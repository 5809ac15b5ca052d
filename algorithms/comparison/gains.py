"""The information gains of a buffer over each baseline that an algorithm uses: measured, stored and read back."""

from __future__ import annotations

from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.comparison.registry import INFORMATION_GAINS
from igsearch_env.information_gain import InformationGain
from igsearch_env.protocols import Protocol
from igsearch_env.scorers import AnswerScorer
from igsearch_env.trajectory import Gain, Turn
from retrievers import Retriever

Gains = list[Gain | None]  # of every turn of a buffer, in its order

STORED = "gains_over_previous"  # in the metadata of a saved buffer, whose turns hold the gains over random evidence


def turns_of(buffer: RolloutBuffer) -> list[Turn]:
    """All turns, in order."""
    return [turn for trajectory in buffer.trajectories for turn in trajectory.turns]


def set_gains(buffer: RolloutBuffer, gains: Gains) -> None:
    """Set the gains of the turns, where algorithms read them."""
    for turn, gain in zip(turns_of(buffer), gains, strict=True):
        turn.gain = gain


def measured_gains(
    buffer: RolloutBuffer, scorer: AnswerScorer, protocol: Protocol, retriever: Retriever, seed: int
) -> dict[str, Gains]:
    """The information gains measured by a scorer, over each baseline of `INFORMATION_GAINS`."""
    gains: dict[str, Gains] = {}
    for baseline, config in INFORMATION_GAINS.items():
        set_gains(buffer, [None] * len(turns_of(buffer)))
        measure_information_gain(buffer, InformationGain(config, scorer, protocol, retriever, seed))
        gains[baseline] = [turn.gain for turn in turns_of(buffer)]
    return gains


def store_gains(buffer: RolloutBuffer, gains: dict[str, Gains]) -> None:
    """Store the gains over both baselines where `RolloutBuffer.save` saves them."""
    set_gains(buffer, gains["random"])
    buffer.metadata[STORED] = [g and [g.value, g.logprob_real, g.logprob_baseline] for g in gains["previous"]]


def stored_gains(buffer: RolloutBuffer) -> dict[str, Gains]:
    """The information gains in a saved buffer; None for a turn without one."""
    held = [turn.gain for turn in turns_of(buffer)]
    previous: Gains = [row and Gain(*row) for row in buffer.metadata.get(STORED, ())]
    # Only a gain over random evidence records its evidences.
    return {
        "random": [gain if gain and gain.baseline_evidences else None for gain in held],
        "previous": previous or [None if gain and gain.baseline_evidences else gain for gain in held],
    }
