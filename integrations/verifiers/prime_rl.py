"""An algorithm of this project in prime-rl's orchestrator, in place of one of its own.

prime-rl builds algorithms from a table by the `type` of their configuration and has no hook for code of others, so an
entry of the table is replaced before the orchestrator starts:

    from integrations.verifiers.prime_rl import install
    install("ig_grpo", tokenizer="Qwen/Qwen3-4B")        # then `algo.type = "grpo"` is IG-GRPO
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from algorithms.common.algorithm import Algorithm
from integrations.credit import find_algorithm
from integrations.verifiers.advantages import assign_advantages
from retrievers.reading import import_optional


def install(algorithm: str | Algorithm, tokenizer: Any, replaced: str = "grpo", protocol: str = "search_r1") -> None:
    """Replace an algorithm of prime-rl.

    Args:
        algorithm: a name of `algorithms/comparison/registry.py`, or an `Algorithm`.
        tokenizer: that of the model, or its name, which `transformers` loads.
        replaced: the `type` of the replaced one, whose configuration is read and ignored.
        protocol: that of the episodes.

    Raises `ConfigurationError` for an algorithm that can't be used, `MissingPackageError` without prime-rl.
    """
    chosen = find_algorithm(algorithm)
    table = import_optional("prime_rl.orchestrator.algo", "verifiers", "training with prime-rl").ALGORITHM_CLASSES
    base: Any = import_module("prime_rl.orchestrator.algo.base").Algorithm
    if isinstance(tokenizer, str):
        tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(tokenizer)

    class ProjectAlgorithm(base):  # type: ignore[misc]
        async def score_group(self, episodes: list[Any]) -> None:
            """Advantages of the episodes of one question."""
            assign_advantages(episodes, chosen, tokenizer, protocol)

    table[replaced] = ProjectAlgorithm
