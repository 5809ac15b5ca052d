"""`EpisodeRules`: limits and rewards of an episode, shared by the environments and rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field

from igsearch_env.errors import check_choice, check_range
from igsearch_env.protocols import Protocol, make_protocol
from igsearch_env.rewards import OUTCOME_REWARDS


@dataclass(frozen=True)
class EpisodeRules:
    """The rules of an episode.

    Args:
        top_k: passages per search, at least 1.
        max_searches: actions before the policy must answer, 1 to 100, per attempt.
        attempts: attempts at the question, 1 to 100, with a reflection prompt between them (MR-Search).
        protocol: the format of actions and observations.
        outcome_reward: "em", "f1" or "autorefine" (see `igsearch_env.rewards`).

    Raises `ConfigurationError` for a value out of range.
    """

    top_k: int = 3
    max_searches: int = 4
    attempts: int = 1
    protocol: Protocol = field(default_factory=make_protocol)
    outcome_reward: str = "em"

    def __post_init__(self) -> None:
        check_limits(self.top_k, self.max_searches, self.attempts)
        check_choice("outcome_reward", self.outcome_reward, OUTCOME_REWARDS)


def check_limits(top_k: int, max_searches: int, attempts: int, section: str = "") -> None:
    """Raise `ConfigurationError` unless the limits are in the ranges of `EpisodeRules`.

    `section`: of the configuration that they are from, for messages.
    """
    prefix = f"{section}." if section else ""
    check_range(f"{prefix}top_k", top_k, 1)
    check_range(f"{prefix}max_searches", max_searches, 1, 100)
    check_range(f"{prefix}attempts", attempts, 1, 100)
