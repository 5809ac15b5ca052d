"""Random streams: those of different names, seeds and counters never coincide, and nothing draws without a name."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from retrievers.random_streams import random_stream, stream_seed

COUNTERS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=4), max_size=4)
ARGUMENTS = st.tuples(st.text(max_size=6), st.integers(0, 2**70), COUNTERS)
PACKAGES = ("retrievers", "igsearch_env", "algorithms", "igsearch", "examples", "benchmarks")
SOURCES = ("default_rng", "SeedSequence", "manual_seed", "Random", "RandomState", "seed_everything", "set_seed")
# Files that make generators without a name.
UNNAMED = {
    "retrievers/random_streams.py": 1,
    "retrievers/service/batching.py": 1,  # the seed of a request
    "retrievers/service/replicas.py": 1,  # times of retries only
    "igsearch/testing/retriever_contract.py": 6,  # what a caller of `sample` gives it
    "igsearch_env/vector_env.py": 2,  # Gymnasium's seeds of environments
    "igsearch_env/world/generator.py": 1,  # the bundled world, which must stay as it is
    "igsearch_env/world/names.py": 1,  # its words
}


def first_numbers(name: str, seed: int, *counters: int | str) -> tuple[int, ...]:
    """What identifies a stream."""
    return tuple(random_stream(name, seed, *counters).integers(2**62, size=3).tolist())


def test_what_coincides_in_numpy_does_not_coincide_here() -> None:
    assert np.random.default_rng([3, 4, 1]).random() == np.random.default_rng([3, 4, 1, 0]).random()
    assert np.random.default_rng([3, 2**32]).random() == np.random.default_rng([3, 0, 1]).random()
    streams: list[tuple[str, int, tuple[int | str, ...]]] = [
        *(("a", seed, counters) for seed in (0, 1) for counters in ((), (0,), (0, 0), (1,), (1, 0), (0, 1), ("1",))),
        *(("a", 0, counters) for counters in ((2**32,), ("1", "0"), ("1, 0",), ('1", "0',), (-1,), (2**64 - 1,))),
        *(("a", 2**32, ()), ("a0", 0, ()), ("a, 0", 0, ()), ('a", 0', 0, ()), ("", 0, ("a",)), ("\ud800", 0, ())),
    ]
    assert len({first_numbers(name, seed, *counters) for name, seed, counters in streams}) == len(streams)
    assert len({stream_seed(name, seed, *counters) for name, seed, counters in streams}) == len(streams)


@given(ARGUMENTS, ARGUMENTS)
def test_streams_are_equal_exactly_where_their_arguments_are(
    one: tuple[str, int, list[int | str]], other: tuple[str, int, list[int | str]]
) -> None:
    (name, seed, counters), (other_name, other_seed, other_counters) = one, other
    same = one == other
    assert (first_numbers(name, seed, *counters) == first_numbers(other_name, other_seed, *other_counters)) == same
    assert (stream_seed(name, seed, *counters) == stream_seed(other_name, other_seed, *other_counters)) == same
    assert first_numbers(name, seed, *counters) == first_numbers(name, seed, *counters)


def test_seeds_of_other_generators_are_in_their_range_and_numpy_integers_are_integers() -> None:
    assert all(0 <= stream_seed("a", seed) < 2**63 for seed in range(1000))
    assert stream_seed("a", np.int64(3), np.int32(4)) == stream_seed("a", 3, 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        stream_seed("a", 1.5)  # type: ignore[arg-type]


def called(node: ast.Call) -> str:
    """Name of the function that a node calls."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """File, name and node of every call of a function."""
    found = []
    for path in itertools.chain(*((ROOT / package).rglob("*.py") for package in PACKAGES)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((str(path.relative_to(ROOT)), called(node), node))
    return found


def test_every_stream_has_a_name_of_its_own() -> None:
    found = calls()
    names = [node.args[0] for _, name, node in found if name in ("random_stream", "stream_seed")]
    literals = [node.value for node in names if isinstance(node, ast.Constant)]
    assert len(literals) == len(names), "the name of a stream must be a string literal, so that names can be compared"
    assert [name for name, count in Counter(literals).items() if count > 1] == []


def test_nothing_else_makes_a_seeded_generator() -> None:
    def is_named(node: ast.Call) -> bool:
        return bool(node.args) and isinstance(node.args[0], ast.Call) and called(node.args[0]) == "stream_seed"

    found = Counter(path for path, name, node in calls() if name in SOURCES and not is_named(node))
    assert found == UNNAMED
