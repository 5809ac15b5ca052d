"""OpenEnv: a server of this project's environment, with a session per WebSocket, and its client."""

from retrievers.reading import import_optional

import_optional("openenv.core", "openenv", "integrations.openenv")

from integrations.openenv.client import IGSearchClient  # noqa: E402
from integrations.openenv.models import SearchAction, SearchObservation  # noqa: E402

__all__ = ["IGSearchClient", "SearchAction", "SearchObservation"]
