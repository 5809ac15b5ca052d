"""verifiers and prime-rl: the environment as a taskset with its own `Env`, and per-token advantages on its traces."""

from retrievers.reading import import_optional

import_optional("verifiers.v1", "verifiers", "integrations.verifiers")

from integrations.verifiers.advantages import assign_advantages, episode_of  # noqa: E402
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
