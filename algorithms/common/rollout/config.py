"""The section `rollout` of a configuration, and what an engine gets of it. No torch, so --help is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from algorithms.common.model.config import Dtype
from algorithms.common.rollout.addresses import split_addresses
from algorithms.common.rollout.engines import ENGINES
from igsearch_env.errors import ConfigurationError, check_choice, check_literals, check_range
from retrievers.credentials import MaskedRepr
from retrievers.extras import is_installed

BUILTIN = "builtin"  # the decoder of this project


@dataclass(frozen=True)
class EngineSettings(MaskedRepr):
    """The generation options of a run; each engine uses those that apply to it."""

    dtype: str
    """Precision of the sampling weights."""
    kv_cache_tokens: int
    """Tokens in the KV cache."""
    pass_tokens: int
    """Maximum tokens of one forward pass."""
    server_url: str
    """Addresses of servers, separated by commas, or "" for engines in this process."""
    gpu_memory_utilization: float
    """Fraction of the GPU's memory, for engines that reserve one."""


@dataclass(frozen=True)
class RolloutConfig(MaskedRepr):
    """How rollouts are collected."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset(
        {"token_budget", "kv_cache_tokens", "server_url", "gpu_memory_utilization", "asynchronous"}
    )

    questions_per_step: int = 16
    """Questions per step."""
    group_size: int = 8
    """G: rollouts per question."""
    temperature: float = 1.0
    """Sampling temperature; log-probs are those of the tempered distribution."""
    max_new_tokens: int = 32
    """Maximum tokens per turn."""
    kv_cache_tokens: int = 262_144
    """Maximum tokens in the KV cache, over all live episodes; at least one context is used. Does not change results."""
    token_budget: int = 4_096
    """Maximum tokens of a pass that prefills or scores answers: limits memory; does not change results."""
    recompute_logprobs: bool = False
    """Recompute the old log-probs before the update; always done if another engine or precision, any precision below
    float32, or earlier weights (max_staleness) sampled."""
    max_staleness: int = 0
    """Collect rollouts during the updates, at most this many steps ahead: a token was sampled by weights that had seen
    at most this many updates less than those that are updated on it. 0: rollouts and updates alternate."""
    engine: str = BUILTIN
    """Generation backend: builtin, transformers (its continuous batching), vllm (in every process) or vllm_server."""
    server_url: str = ""
    """Address of the vLLM server, http://HOST:PORT; several are separated by commas, and share the episodes."""
    gpu_memory_utilization: float = 0.4
    """Fraction of the GPU's memory that vllm in this process uses; it is free in updates."""
    asynchronous: bool | None = None
    """Each episode searches and continues on its own; it writes the same, but log-probs are rounded differently in
    every run. False: all episodes finish their turn, then one search serves them. None: True for engines that serve
    requests one by one (vllm, vllm_server), False for builtin and transformers."""
    dtype: Dtype | None = None
    """Precision of a copy of the weights that samples and scores, for example bfloat16 if float32 weights are trained.
    None: no copy; the trained weights themselves sample."""

    def __post_init__(self) -> None:
        check_literals(self, "rollout")
        check_range("rollout.questions_per_step", self.questions_per_step, 1)
        check_range("rollout.group_size", self.group_size, 1)
        check_range("rollout.temperature", self.temperature, 1e-3)
        check_range("rollout.max_new_tokens", self.max_new_tokens, 1)
        check_range("rollout.kv_cache_tokens", self.kv_cache_tokens, 1)
        check_range("rollout.max_staleness", self.max_staleness, 0)
        check_range("rollout.token_budget", self.token_budget, 1)
        check_range("rollout.gpu_memory_utilization", self.gpu_memory_utilization, 0.01, 1)
        check_choice("rollout.engine", self.engine, (BUILTIN, *ENGINES))
        if (self.engine == "vllm_server") != bool(self.server_url):
            raise ConfigurationError(
                f"rollout.engine={self.engine!r}, rollout.server_url={self.server_url!r}: vllm_server needs "
                "an address, and no other engine takes one"
            )
        if self.server_url:
            split_addresses(self.server_url)
        if self.max_staleness and self.engine == "vllm":
            raise ConfigurationError(
                f"rollout.max_staleness={self.max_staleness} with rollout.engine='vllm': it sleeps during updates, so "
                "it can't collect rollouts then; use vllm_server on other GPUs, or builtin"
            )
        if self.asynchronous and self.engine == "transformers":
            raise not_asynchronous(self.engine)

    def engine_settings(self, dtype: str) -> EngineSettings:
        """Settings of an engine whose weights have precision `dtype`."""
        return EngineSettings(
            dtype, self.kv_cache_tokens, self.token_budget, self.server_url, self.gpu_memory_utilization
        )


def check_engine(engine: str) -> None:
    """Raise `ConfigurationError` if the package of an engine is not installed. It is not imported."""
    if engine == "vllm" and not is_installed("vllm"):
        raise ConfigurationError(
            "rollout.engine='vllm': the package vllm is not installed; pip install 'igsearch[vllm]', or use "
            "builtin, transformers, or vllm_server with a server that runs elsewhere"
        )


def not_asynchronous(engine: str) -> ConfigurationError:
    """The error of `rollout.asynchronous` for an engine that answers all requests of a call together."""
    return ConfigurationError(
        f"rollout.asynchronous=True with rollout.engine={engine!r}: its draws depend on all requests of a call, so an "
        "episode would depend on the clock; leave rollout.asynchronous out, or use builtin or an engine that serves "
        "requests one by one (vllm_server)"
    )
