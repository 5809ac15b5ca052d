"""The information gains of a buffer that algorithms use, by baseline or source: measured, stored and read back."""

from __future__ import annotations

from contextlib import suppress

from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.comparison.registry import INFORMATION_GAINS
from igsearch_env.errors import ConfigurationError
from igsearch_env.gain_sources import check_source
from igsearch_env.information_gain import InformationGain
from igsearch_env.protocols import Protocol
from igsearch_env.scorers import AnswerScorer
from igsearch_env.trajectory import Gain, Turn
from retrievers import Retriever

Gains = list[Gain | None]  # of every turn of a buffer, in its order

STORED = "gains_over_{}"  # in the metadata of a saved buffer, whose turns hold the gains over random evidence


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
    """The information gains of `INFORMATION_GAINS`; None for those that the questions or the corpus don't allow."""
    gains: dict[str, Gains] = {}
    questions = [group.question for group in buffer.groups]
    for name, config in INFORMATION_GAINS.items():
        set_gains(buffer, [None] * len(turns_of(buffer)))
        with suppress(ConfigurationError):
            check_source(config.source, questions, retriever)
            measure_information_gain(buffer, InformationGain(config, scorer, protocol, retriever, seed))
        gains[name] = [turn.gain for turn in turns_of(buffer)]
    return gains


def store_gains(buffer: RolloutBuffer, gains: dict[str, Gains]) -> None:
    """Store the gains where `RolloutBuffer.save` saves them."""
    set_gains(buffer, gains["random"])
    for name in gains.keys() - {"random"}:
        rows = [g and [g.value, g.logprob_real, g.logprob_baseline] for g in gains[name]]
        buffer.metadata[STORED.format(name)] = rows


def stored_gains(buffer: RolloutBuffer) -> dict[str, Gains]:
    """The information gains in a saved buffer; None for a turn without one."""
    held = [turn.gain for turn in turns_of(buffer)]
    gains: dict[str, Gains] = {}
    for name in INFORMATION_GAINS:
        rows = buffer.metadata.get(STORED.format(name), [None] * len(held))
        gains[name] = [row and Gain(*row) for row in rows]
    # Only a gain over random evidence records its evidences.
    gains["random"] = [gain if gain and gain.baseline_evidences else None for gain in held]
    if not any(gains["previous"]):
        gains["previous"] = [None if gain and gain.baseline_evidences else gain for gain in held]
    return gains
