"""Information gain of trajectories that were played before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from igsearch_env.errors import ConfigurationError
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import InformationGain, InformationGainConfig, set_gains
from igsearch_env.protocols import Protocol, as_protocol
from igsearch_env.scorers import AnswerScorer, check_scorer
from igsearch_env.trajectory import Trajectory
from retrievers.base import Retriever


def measure_gains(
    trajectories: Iterable[Trajectory],
    scorer: AnswerScorer | None,
    *,
    retriever: Retriever | None = None,
    protocol: str | Protocol = "search_r1",
    information_gain: InformationGainConfig | dict[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Set `turn.gain` of every search of trajectories that were played, in one scoring call.

    Args:
        trajectories: they are changed: a search has its gain, in nats and not stabilised, or None if it found nothing.
        scorer: of the answers; may be None if the source of the gains needs none.
        retriever: to draw random passages from, where the searches of other questions are too few (or with
            `random_source="corpus"`).
        protocol: that the trajectories were played with, by name or as an object.
        information_gain: an `InformationGainConfig` or a dictionary of its fields.
        seed: of the random evidence.

    Raises `ConfigurationError` for a wrong argument, or if random evidence is missing and there is no retriever, and
    `RetrievalError` if the retriever fails, `ScoringError` if the scorer returns anything but a finite number for each
    evidence. Gains that were there are kept then.
    """
    if isinstance(trajectories, Trajectory) or not isinstance(trajectories, Iterable):
        raise ConfigurationError(
            f"trajectories={repr(trajectories)[:80]}, a {type(trajectories).__name__}: must be a list of Trajectory "
            "objects; put a single one into a list"
        )
    trajectories = list(trajectories)
    for trajectory in trajectories:
        if not isinstance(trajectory, Trajectory):
            raise ConfigurationError(
                f"trajectories has {str(trajectory)[:80]!r}, a {type(trajectory).__name__}: pass Trajectory objects, "
                "such as env.trajectory or buffer.trajectories"
            )
    if retriever is not None and not isinstance(retriever, Retriever):
        raise ConfigurationError(
            f"retriever={repr(retriever)[:80]}: must be a Retriever or None; open_retriever makes one of a name"
        )
    config = InformationGainConfig.of(information_gain)
    if scorer is not None or config.needs_scorer:
        check_scorer(scorer, "a name is none: make one, such as UnigramScorer(retriever)")
    steps = search_steps(trajectories)
    gains = InformationGain(config, scorer, as_protocol(protocol), retriever, seed).of_batch(steps) if steps else []
    for trajectory in trajectories:
        for turn in trajectory.turns:
            turn.gain = None
    set_gains(steps, gains)
