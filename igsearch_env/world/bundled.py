"""Generated worlds by name: `bundled` and `world:OPTIONS`. Each is generated on first use, within a second."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from igsearch_env.errors import ConfigurationError
from igsearch_env.world.generator import generate_world
from igsearch_env.world.options import BUNDLED, PREFIX, WorldName
from igsearch_env.world.records import World
from retrievers.base import Retriever
from retrievers.bm25 import BM25Retriever
from retrievers.noisy import NoisyRetriever

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
    return BM25Retriever(world.passages, title_weight=1, stopwords="none", min_length=2)


def noisy(engine: Retriever, noise: float, seed: int) -> Retriever:
    """A search engine that loses a share of its results, by the rule of `WorldOptions.noise`."""
    return NoisyRetriever(engine, replaced=noise / 2, dropped=noise / 2, seed=seed) if noise else engine


def is_world(source: object) -> bool:
    """Whether a source of questions or a corpus is a generated world by name: `bundled` or `world:OPTIONS`."""
    return isinstance(source, str) and (source == BUNDLED or source.startswith(PREFIX))


def named_world(source: str) -> World:
    """A generated world. Shared: do not modify it. Raises `ConfigurationError` unless the name is valid."""
    return bundled_world() if source == BUNDLED else _generated(WorldName.read(source))


def named_retriever(source: str) -> Retriever:
    """The search engine of a generated world, with its noise. Shared: searches do not change its state."""
    return bundled_retriever() if source == BUNDLED else _searched(WorldName.read(source))


@lru_cache(maxsize=4)
def _generated(name: WorldName) -> World:
    return generate_world(name.seed, name.passages, name.options)


@lru_cache(maxsize=4)
def _searched(name: WorldName) -> Retriever:
    return noisy(world_retriever(_generated(name)), name.options.noise, name.seed)


def world_of(questions: Iterable[object]) -> str | None:
    """The name of the world that all sources of questions are of, whose passages answer them; None if there is none."""
    names = list(questions)
    return str(names[0]) if names and is_world(names[0]) and all(name == names[0] for name in names) else None


def check_same_world(questions: Iterable[object], corpus: object, prefix: str = "", option: str = "questions") -> None:
    """Raise `ConfigurationError` if questions and corpus are of different worlds.

    `option`, with `prefix`: the name of the questions in messages.

    Worlds that differ in noise alone are the same: they have the same passages.
    """
    if not is_world(corpus):
        return
    for source in questions:
        if is_world(source) and _texts(str(source)) != _texts(str(corpus)):
            raise ConfigurationError(
                f"{prefix}{option} {source} with {prefix}corpus {corpus}: the passages of one world do not answer the "
                f"questions of another; give {prefix}corpus {source} or {prefix}{option} {corpus}"
            )


def _texts(source: str) -> WorldName:
    name = WorldName.read(source)
    return replace(name, options=replace(name.options, noise=0.0))
