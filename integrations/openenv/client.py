"""`IGSearchClient`: a session with the server. Asynchronous; `.sync()` gives the synchronous form."""

from __future__ import annotations

from typing import Any

from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.types import State

from integrations.openenv.models import SearchAction, SearchObservation


class IGSearchClient(EnvClient[SearchAction, SearchObservation, State]):  # type: ignore[misc] # untyped base class
    """Every client has a session, and an episode, of its own."""

    def _step_payload(self, action: SearchAction | str) -> dict[str, Any]:
        return {"text": action if isinstance(action, str) else action.text}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[SearchObservation]:
        fields = {key: payload["observation"].get(key, default) for key, default in (("text", ""), ("episode", ""))}
        metadata = payload.get("metadata") or payload["observation"].get("metadata") or {}
        done, reward = bool(payload.get("done")), payload.get("reward")
        observation = SearchObservation(**fields, done=done, reward=reward, metadata=metadata)
        return StepResult(observation=observation, reward=reward, done=done, metadata=metadata)

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(episode_id=payload.get("episode_id"), step_count=payload.get("step_count", 0))
