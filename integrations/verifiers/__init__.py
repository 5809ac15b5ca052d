"""verifiers and prime-rl: the environment as a taskset with its own `Env`, and per-token advantages on its traces."""

from typing import Any

from retrievers.reading import import_optional

import_optional("verifiers.v1", "verifiers", "integrations.verifiers")

from integrations.verifiers.env import IGSearchEnv, IGSearchEnvConfig, load_environment  # noqa: E402
from integrations.verifiers.harness import ChatHarness, ChatHarnessConfig  # noqa: E402
from integrations.verifiers.taskset import IGSearchTaskset, IGSearchTasksetConfig  # noqa: E402

__all__ = [
    "ChatHarness",
    "ChatHarnessConfig",
    "IGSearchEnv",
    "IGSearchEnvConfig",
    "IGSearchTaskset",
    "IGSearchTasksetConfig",
    "assign_advantages",
    "episode_of",
    "load_environment",
]


def __getattr__(name: str) -> Any:
    """Advantages are imported when they are used: they require torch, which the environment does not."""
    if name not in ("assign_advantages", "episode_of"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from integrations.verifiers import advantages

    return getattr(advantages, name)
