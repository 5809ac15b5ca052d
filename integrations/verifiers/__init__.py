"""verifiers and prime-rl: the environment as a taskset with its own `Env`, and per-token advantages on its traces."""

from integrations.verifiers.advantages import assign_advantages, episode_of
from integrations.verifiers.env import IGSearchEnv, IGSearchEnvConfig, load_environment
from integrations.verifiers.harness import ChatHarness, ChatHarnessConfig
from integrations.verifiers.taskset import IGSearchTaskset, IGSearchTasksetConfig

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
