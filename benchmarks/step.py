"""Time of a training step with the bundled defaults by part: decoding, prefill, retrieval, information gain, update.

IG-GRPO and GRPO have the same rollouts and updates, so both step times are measured on the same steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from algorithms.common.model.packing import Pack
from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic
from algorithms.common.trainer import collect_batch
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from benchmarks.measure import Line, seconds
from benchmarks.policies import layer_parameters, matrix_rate
from benchmarks.training_step import update_policy


class _Clock:
    """Seconds and tokens of calls, by purpose."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}

    def add(self, name: str, taken: float, tokens: int = 0) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        self.tokens[name] = self.tokens.get(name, 0) + tokens


def _watch(run: Run, clock: _Clock) -> None:
    """Measure the forward passes and the environment of a run."""
    read: Callable[[Pack], Any] = run.policy.forward_packed
    step = run.stepper.step

    def timed_read(packed: Pack) -> Any:
        start = time.perf_counter()
        result = read(packed)
        one_each = len(packed.ids_n) == len(packed.first)
        name = "information_gain" if packed.rows_n is None else "decode" if one_each else "read"
        clock.add(name, time.perf_counter() - start, len(packed.ids_n))
        return result

    def timed_step(*args: Any) -> Any:
        start = time.perf_counter()
        result = step(*args)
        clock.add("environment", time.perf_counter() - start)
        return result

    run.policy.forward_packed = timed_read  # type: ignore[method-assign]
    run.stepper.step = timed_step  # type: ignore[method-assign,assignment]


def lines(repeats: int) -> list[Line]:
    """Medians over `repeats` steps, after two warm-up steps."""
    rollouts, gains, updates, clocks, update_tokens = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        config = IGGRPOConfig(run_dir=Path(folder) / "run")
        algorithm = IGGRPO(config)
        make_torch_deterministic(config.seed)
        run = Run(algorithm, config)
        watched = _Clock()
        _watch(run, watched)
        for number in range(1, repeats + 3):
            watched.seconds.clear()
            watched.tokens.clear()
            start = time.perf_counter()
            buffer = collect_batch(run, algorithm, number)
            rollout = time.perf_counter() - start
            measure = run.information_gain(number, buffer.prefixes)
            gain = seconds(partial(measure_information_gain, buffer, measure))
            advantages = algorithm.advantages(buffer)
            updated = seconds(partial(update_policy, run, buffer, advantages, number))
            if number > 2:
                rollouts.append(rollout)
                gains.append(gain)
                updates.append(updated)
                update_tokens.append(sum(len(s.ids) for s in buffer.sequences))
                clocks.append((dict(watched.seconds), dict(watched.tokens)))
        run.close()
    shares = [gain / (rollout + updated) for gain, rollout, updated in zip(gains, rollouts, updates, strict=True)]

    def part(name: str) -> str:
        taken = statistics.median(seconds.get(name, 0.0) for seconds, _ in clocks)
        tokens = statistics.median(tokens.get(name, 0) for _, tokens in clocks)
        return f"{name} {taken:.2f} s" + (f" ({tokens:,.0f} tokens)" if tokens else "")

    detail = ", ".join(part(name) for name in ("decode", "read", "environment"))
    weights = layer_parameters(run.policy)
    rate = matrix_rate()
    needed = statistics.median(
        2 * weights * (sum(tokens.values()) + 3 * of_update)
        for (_, tokens), of_update in zip(clocks, update_tokens, strict=True)
    )
    whole = statistics.median(r + g + u for r, g, u in zip(rollouts, gains, updates, strict=True))
    return [
        Line("IG-GRPO step over GRPO step", 1 + statistics.median(shares), target=1.4, at_most=True),
        Line("IG-GRPO step", whole, "s"),
        Line("  of it rollout", statistics.median(rollouts), "s", detail=detail),
        Line("  of it information gain", statistics.median(gains), "s", detail=part("information_gain")),
        Line(
            "  of it update",
            statistics.median(updates),
            "s",
            detail=f"{statistics.median(update_tokens):,.0f} tokens",
        ),
        Line(
            "  share of the time that its matrix products need at this machine's best rate",
            needed / rate / whole,
            "",
            detail=f"{needed / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s",
        ),
    ]
