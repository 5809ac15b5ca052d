"""The section `rollout` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from algorithms.common.model.pretrained import Dtype
from igsearch_env.errors import ConfigurationError, check_literals, check_range

EVAL_SLOTS = 128  # questions that are being answered at once in an evaluation


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is collected."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset(
        {"token_budget", "kv_cache_tokens", "server_url", "gpu_memory_utilization"}
    )

    questions_per_step: int = 16
    """Questions a step."""
    group_size: int = 8
    """G, rollouts of each question."""
    temperature: float = 1.0
    """Sampling temperature; log-probs are of the tempered distribution."""
    max_new_tokens: int = 32
    """Tokens a turn, at most."""
    kv_cache_tokens: int = 262_144
    """Tokens whose keys and values are held: bounds the episodes that are played at once (one takes a context)."""
    token_budget: int = 4_096
    """Tokens of a pass that reads prompts or observations, or scores answers: bounds memory, changes no number."""
    step_share: float = 1.0
    """Share of the live episodes whose turns are finished when the environment steps. Below 1 retrieval overlaps with
    decoding, at the price of more and smaller calls; on two cores it did not pay."""
    recompute_logprobs: bool = False
    """Compute the old log-probs again before the update; always done where another engine or precision sampled."""
    engine: Literal["builtin", "transformers", "vllm", "vllm_server"] = "builtin"
    """What generates: builtin, transformers (its continuous batching), vllm (in this process) or vllm_server."""
    server_url: str = ""
    """Address of the vLLM server, http://HOST:PORT."""
    gpu_memory_utilization: float = 0.4
    """Share of the GPU's memory that vllm in this process takes."""
    dtype: Dtype | None = None
    """Precision of a copy of the weights that samples and scores, for example bfloat16 where float32 weights are
    trained. None: no copy, the trained weights themselves sample."""

    def __post_init__(self) -> None:
        check_literals(self, "rollout")
        check_range("rollout.questions_per_step", self.questions_per_step, 1)
        check_range("rollout.group_size", self.group_size, 1)
        check_range("rollout.temperature", self.temperature, 1e-3)
        check_range("rollout.max_new_tokens", self.max_new_tokens, 1)
        check_range("rollout.kv_cache_tokens", self.kv_cache_tokens, 1)
        check_range("rollout.token_budget", self.token_budget, 1)
        check_range("rollout.step_share", self.step_share, 0, 1)
        check_range("rollout.gpu_memory_utilization", self.gpu_memory_utilization, 0.01, 1)
        if (self.engine == "vllm_server") != bool(self.server_url):
            raise ConfigurationError(
                f"rollout.engine={self.engine!r}, rollout.server_url={self.server_url!r}: an address goes "
                "with vllm_server, and vllm_server with an address"
            )
