"""OpenEnv: a server of this project's environment, with a session per WebSocket, and its client."""

from integrations.openenv.client import IGSearchClient
from integrations.openenv.models import SearchAction, SearchObservation

__all__ = ["IGSearchClient", "SearchAction", "SearchObservation"]
