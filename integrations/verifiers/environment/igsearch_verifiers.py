"""The module that `vf-eval igsearch-verifiers` and prime-rl import; the code is in `integrations.verifiers`."""

from integrations.verifiers import ChatHarness, IGSearchEnv, IGSearchTaskset, load_environment

__all__ = ["ChatHarness", "IGSearchEnv", "IGSearchTaskset", "load_environment"]
