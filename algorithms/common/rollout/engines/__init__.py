"""Engines that write turns in place of the built-in decoder. Each is imported when it is asked for."""

from __future__ import annotations

from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.engines.base import Engine, EngineDecoder, EngineError

__all__ = ["Engine", "EngineDecoder", "EngineError", "make_engine"]


def make_engine(config: RolloutConfig, policy: Policy, policy_config: PolicyConfig) -> Engine | None:
    """The engine of a configuration; None for the built-in decoder.

    An engine with weights of its own has those of the policy after `update_weights` alone: call it before the first
    rollout of a run that resumes or trains adapters.
    """
    match config.engine:
        case "transformers":
            from algorithms.common.rollout.engines.continuous_batching import ContinuousBatchingEngine

            return ContinuousBatchingEngine(
                policy, kv_cache_tokens=config.kv_cache_tokens, token_budget=config.token_budget
            )
        case "vllm":
            from algorithms.common.rollout.engines.vllm_local import VllmEngine

            dtype = config.dtype or policy_config.compute_dtype or policy_config.dtype
            return VllmEngine(policy, dtype=dtype, gpu_memory_utilization=config.gpu_memory_utilization)
        case "vllm_server":
            from algorithms.common.rollout.engines.vllm_server import VllmServerEngine

            return VllmServerEngine(policy, config.server_url)
    return None
