"""The OpenEnv server of this project's environment.

    python -m integrations.openenv.server.app --port 8000

Settings are fields of `SearchSettings`, as JSON in the environment variable `IGSEARCH_SETTINGS`, for example
`{"questions": "questions.jsonl", "corpus": "corpus.jsonl"}`; `IGSEARCH_SESSIONS` bounds the open sessions (256).
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial

from fastapi import FastAPI
from openenv.core.env_server.http_server import create_app

from igsearch_env.errors import ConfigurationError, IGSearchError
from integrations.batching import StepBatcher
from integrations.openenv.environment import SearchEnvironment
from integrations.openenv.models import SearchAction, SearchObservation
from integrations.settings import SearchSettings
from retrievers.program import ends_in_one_line


def make_app(batcher: StepBatcher, sessions: int = 256) -> FastAPI:
    """The application over an opened stepper, for example one with a scorer of another kind."""
    factory = partial(SearchEnvironment, batcher)
    app: FastAPI = create_app(
        factory, SearchAction, SearchObservation, env_name="igsearch", max_concurrent_envs=sessions
    )
    return app


def app_of_environment() -> FastAPI:
    """The application with the settings of the environment variables. Raises `ConfigurationError` for wrong ones."""
    settings, sessions = os.environ.get("IGSEARCH_SETTINGS", "{}"), os.environ.get("IGSEARCH_SESSIONS", "256")
    try:
        values, bound = json.loads(settings), int(sessions)
    except ValueError as error:
        raise ConfigurationError(
            f"IGSEARCH_SETTINGS={settings[:80]!r}, IGSEARCH_SESSIONS={sessions!r}: {error}; the first must be a JSON "
            "object, the second a number"
        ) from error
    if not isinstance(values, dict) or bound < 1:
        raise ConfigurationError(
            f"IGSEARCH_SETTINGS={settings[:80]!r} must be a JSON object, IGSEARCH_SESSIONS={sessions!r} at least 1"
        )
    return make_app(SearchSettings.of(values).shared(), bound)


def __getattr__(name: str) -> FastAPI:
    """`app` is made when it is first asked for (`uvicorn integrations.openenv.server.app:app`)."""
    if name == "app":
        globals()["app"] = app_of_environment()
        found: FastAPI = globals()["app"]
        return found
    raise AttributeError(name)


def main() -> None:
    """Serve until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(app_of_environment(), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError):
        main()
