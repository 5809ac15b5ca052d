"""Random streams: every source of random numbers that a seed determines has a name, and no two of them coincide.

`np.random.default_rng` alone does not ensure this: it pads short seeds with zeros, so `[seed, step, 1]` and
`[seed, step, 1, 0]` give the same numbers, and sums such as `seed + 1` coincide with other seeds. Names are used once
in the code (a test checks this). This file is on the lowest floor, so that every package can import it.
"""

from __future__ import annotations

import hashlib
import json
import operator

import numpy as np


def random_stream(name: str, seed: int, *counters: int | str) -> np.random.Generator:
    """A generator that is determined by all arguments, and independent of that of any other arguments.

    `name`: what the numbers are for. `counters`: which of several such streams, e.g. a step; of any number and size.
    """
    return np.random.default_rng(_entropy(name, seed, counters))


def stream_seed(name: str, seed: int, *counters: int | str) -> int:
    """A seed in [0, 2**63), for generators of `random`, of torch and of other libraries. Arguments: `random_stream`."""
    return _entropy(name, seed, counters) >> (256 - 63)


def _entropy(name: str, seed: int, counters: tuple[int | str, ...]) -> int:
    """256 bits: a hash of a text that differs wherever the arguments differ in value, kind or number."""
    values = [value if isinstance(value, str) else operator.index(value) for value in (seed, *counters)]
    return int.from_bytes(hashlib.sha256(json.dumps([name, *values]).encode("ascii")).digest(), "big")
