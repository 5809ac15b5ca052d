"""Measure what the README states, and say which lines fall short: `make bench`, or

python benchmarks/run.py            the environment, about a minute
python benchmarks/run.py --train True  also the default training run: time, peak memory, exact match
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import tyro
from rich.console import Console
from rich.table import Table

from igsearch_env.vector_env import IGSearchVectorEnv
from igsearch_env.world.bundled import bundled_world
from retrievers import DictionaryRetriever, Passage

ENVS = 64
FIRST_OBSERVATION = """
import time; start = time.perf_counter()
import sys, gymnasium, igsearch_env
gymnasium.make("IGSearch-v0").reset(seed=0)
assert "torch" not in sys.modules
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Line:
    """One measured figure."""

    name: str
    value: float
    unit: str
    target: float
    at_most: bool = False

    @property
    def ok(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    train: bool = False
    """Also run the default training (minutes)."""
    repeats: int = 5
    """Repetitions of each measurement; the median counts."""
    output: Path | None = None
    """JSON file for the figures."""


def main(args: Args) -> None:
    """Measure and print."""
    lines = [
        first_observation(args.repeats),
        vector_env("vector env, 64 envs, dictionary retriever, no scorer", 20_000, args.repeats, bundled=False),
        vector_env("vector env, 64 envs, bundled BM25, UnigramScorer", 2_000, args.repeats, bundled=True),
    ]
    if args.train:
        lines += training()
    table = Table(title=f"{os.cpu_count()} cores")
    for column in ("figure", "measured", "target", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for line in lines:
        sign = "at most" if line.at_most else "at least"
        table.add_row(
            line.name, f"{line.value:,.3g} {line.unit}", f"{sign} {line.target:,g}", "" if line.ok else "falls short"
        )
    Console().print(table)
    if args.output is not None:
        args.output.write_text(json.dumps([{**vars(line), "ok": line.ok} for line in lines], indent=1))


def first_observation(repeats: int) -> Line:
    """gym.make to first observation in a new process, imports included; fails if torch is imported."""
    seconds = [
        float(subprocess.run([sys.executable, "-c", FIRST_OBSERVATION], check=True, capture_output=True).stdout)
        for _ in range(repeats)
    ]
    return Line("new process to first observation", statistics.median(seconds), "s", 1.0, at_most=True)


def vector_env(name: str, target: float, repeats: int, *, bundled: bool) -> Line:
    """Steps of single environments per second: four searches, then an answer, over and over."""
    if bundled:
        vector = gymnasium.make_vec("IGSearch-v0", num_envs=ENVS)
    else:
        passages = [Passage(str(j), f"Title {j}", "some text of about thirty words " * 5) for j in range(3)]
        vector = gymnasium.make_vec(
            "IGSearch-v0",
            num_envs=ENVS,
            questions=bundled_world().questions["train"],
            retriever=DictionaryRetriever({f"query {i}": passages for i in range(ENVS)}),
            scorer=None,
        )
    env = vector.unwrapped
    assert isinstance(env, IGSearchVectorEnv)
    rates = []
    for repeat in range(repeats + 1):
        env.reset(seed=repeat)
        rounds = 6 if bundled else 60
        start = time.perf_counter()
        for round_number in range(5 * rounds):
            env.step(_actions(env, round_number % 5, bundled))
        if repeat:  # the first is a warm-up
            rates.append(5 * rounds * ENVS / (time.perf_counter() - start))
    return Line(name, statistics.median(rates), "env steps/s", target)


def _actions(env: IGSearchVectorEnv, turn: int, bundled: bool) -> Sequence[str]:
    if turn == 4:
        return ["<answer> nothing </answer>"] * ENVS
    if not bundled:
        return [f"<search> query {i} </search>" for i in range(ENVS)]
    words = [t.question.text.rstrip("?").split()[-3 - turn :] for t in env.trajectories]
    return [f"<search> {' '.join(query)} </search>" for query in words]


def training() -> list[Line]:
    """The default training run, as a user starts it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "algorithms/ig_grpo.py", "--run-dir", str(run_dir)],
            check=True,
            cwd=Path(__file__).parent.parent,
        )
        minutes = (time.perf_counter() - start) / 60
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    em = [row["eval/em"] for row in rows if "eval/em" in row]
    return [
        Line("default training run", minutes, "min", 8, at_most=True),
        Line("greedy test EM before it", em[0], "", 0.30, at_most=True),
        Line("greedy test EM after it", em[-1], "", 0.65),
        Line("peak memory of it", peak, "GB", 2, at_most=True),
    ]


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
