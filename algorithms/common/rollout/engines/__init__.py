"""Generation backends besides the built-in decoder. A new one needs its own file and its class in `ENGINES`."""

from __future__ import annotations

ENGINES = {
    "transformers": "continuous_batching.ContinuousBatchingEngine",
    "vllm": "vllm_local.VllmEngine",
    "vllm_server": "vllm_server.VllmServerEngine",
}
"""Module in this folder and class, by value of `rollout.engine`; imported by `engine_class`, as they import torch."""
