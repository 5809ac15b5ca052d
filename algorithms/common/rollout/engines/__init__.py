"""Generation backends besides the built-in decoder. A new one needs its own file and its class in `ENGINES`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from algorithms.common.rollout.engines.base import Engine

ENGINES = {
    "transformers": "continuous_batching.ContinuousBatchingEngine",
    "vllm": "vllm_local.VllmEngine",
    "vllm_server": "vllm_server.VllmServerEngine",
}
"""Module in this folder and class, by value of `rollout.engine`; imported when used, as they import torch."""


def engine_class(name: str) -> type[Engine]:
    """The class of an engine."""
    module, _, attribute = ENGINES[name].partition(".")
    found: type[Engine] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
