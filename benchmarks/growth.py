"""How time and memory of information gain grow with trajectory length, searches, N, group size and model width.

Each point is measured in a separate process:

    python -m benchmarks.growth --context 2000
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from algorithms.common.base.command_line import parse_options
from algorithms.common.rollout.answer_scorer import PolicyScorer
from benchmarks.information_gain import make_requests
from benchmarks.measure import Line, MemoryWatch, seconds
from benchmarks.policies import random_policy


@dataclass(frozen=True)
class Point:
    """One setting; the defaults are used for the variables that a series does not change."""

    context: int = 1_600
    """Tokens before the evidence of the last search."""
    searches: int = 3
    """Searches per trajectory."""
    num_random: int = 3
    """Number of random evidences, N."""
    group_size: int = 4
    """Number of trajectories."""
    width: int = 256
    """Hidden size of the model, which has four layers."""
    evidence: int = 150
    """Tokens per evidence."""


SERIES: dict[str, tuple[int, ...]] = {
    "context": (800, 1_600, 3_200, 6_400),
    "searches": (1, 2, 4, 8),
    "num_random": (1, 2, 4, 8),
    "group_size": (2, 4, 8, 16),
    "width": (128, 256, 512, 1_024),
}


@dataclass(frozen=True)
class Measured:
    """Seconds of scoring, and memory in gigabytes above that of the idle process."""

    seconds: float
    gigabytes: float


def main(point: Point) -> None:
    """Print one measurement as JSON."""
    shape = {
        "hidden_size": point.width,
        "intermediate_size": 3 * point.width,
        "num_attention_heads": max(2, point.width // 64),
        "num_key_value_heads": 2,
    }
    policy = random_policy(shape, 4)
    requests = make_requests(
        policy,
        context=point.context,
        searches=point.searches,
        evidence=point.evidence,
        num_random=point.num_random,
        trajectories=point.group_size,
    )
    scorer = PolicyScorer(policy)
    scorer.score(make_requests(policy, context=64, searches=1, evidence=16))  # warm-up of the libraries
    with MemoryWatch() as memory:
        times = [seconds(lambda: scorer.score(requests)) for _ in range(3)]
    print(json.dumps(asdict(Measured(min(times), max(memory.grown, 1e-3)))))


def measure() -> dict[str, dict[int, Measured]]:
    """Measure every series, which changes one variable at a time."""
    return {
        name: {value: _in_process(replace(Point(), **{name: value})) for value in values}
        for name, values in SERIES.items()
    }


def _in_process(point: Point) -> Measured:
    options = [word for name, value in asdict(point).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "benchmarks.growth", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def exponent(values: dict[int, float]) -> float:
    """b of the least-squares fit y = a x^b."""
    x, y = np.log(list(values)), np.log(list(values.values()))
    return float(np.polyfit(x, y, 1)[0])


def lines(repeats: int) -> list[Line]:
    """The fitted exponent of time for each variable; memory in the detail. `repeats` is not used."""
    result = []
    for name, points in measure().items():
        times = {value: point.seconds for value, point in points.items()}
        memory = {value: point.gigabytes for value, point in points.items()}
        detail = "; ".join(f"{v:,}: {p.seconds:.2f} s, {p.gigabytes:.2f} GB" for v, p in points.items())
        result.append(
            Line(
                f"IG grows with {name}: time ~ x^b",
                exponent(times),
                "",
                detail=f"memory ~ x^{exponent(memory):.2f}; {detail}",
            )
        )
    return result


if __name__ == "__main__":
    main(parse_options(Point, description=__doc__))
