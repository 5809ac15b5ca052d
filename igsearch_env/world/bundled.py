"""The world that ships with the package: generated from its seed on first use, in about 0.1 s."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from igsearch_env.world.generator import World, generate_world
from retrievers.bm25 import BM25Retriever

SEED = 0
POLICY_FOLDER = Path(__file__).parent / "policy"


@lru_cache(maxsize=1)
def bundled_world() -> World:
    """The bundled world, 2,984 passages. Shared: do not modify it."""
    return generate_world(SEED)


@lru_cache(maxsize=1)
def bundled_retriever() -> BM25Retriever:
    """BM25 over the bundled world. Shared: searches do not change its state."""
    return world_retriever(bundled_world())


def world_retriever(world: World) -> BM25Retriever:
    """BM25 over a generated world, with the settings of the bundled policy and of docs/results.md."""
    return BM25Retriever(world.passages, title_weight=1, stopwords="none")
