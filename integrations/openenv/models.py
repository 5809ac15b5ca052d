"""What client and server exchange."""

from __future__ import annotations

from openenv.core.env_server.types import Action, Observation
from pydantic import Field


class SearchAction(Action):  # type: ignore[misc] # untyped base class
    """One turn of the policy."""

    text: str = Field(description="What the policy wrote; its first search or answer counts.")


class SearchObservation(Observation):  # type: ignore[misc] # untyped base class
    """What the policy reads next. `reward` and `metadata` (the environment's `info`) are those of the last action."""

    text: str = Field(
        default="", description="The prompt after a reset, then the result of each action; empty at the end."
    )
    episode: str = Field(default="", description="At the end of an episode: its record, see integrations.credit.")
