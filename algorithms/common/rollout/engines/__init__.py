"""Generation backends besides the built-in decoder. A new one needs its own file and its class in `ENGINES`."""

from __future__ import annotations

from algorithms.common.rollout.engines.base import Engine
from algorithms.common.rollout.engines.continuous_batching import ContinuousBatchingEngine
from algorithms.common.rollout.engines.vllm_local import VllmEngine
from algorithms.common.rollout.engines.vllm_server import VllmServerEngine

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (ContinuousBatchingEngine, VllmEngine, VllmServerEngine)
}
"""Engine classes by value of `rollout.engine`."""
