"""A training step of IG-GRPO on paper and as measured: operations, bytes and floor of each part beside its seconds.

    python -m benchmarks.step_model                        the bundled defaults; also: make bench ARGS="--only step"
    python -m benchmarks.step_model --shape smollm2-135m   also qwen2.5-0.5b; --markdown prints a table for a page

Tokens are those of the buffer that was played. The floor is the least time for the products and the bytes of a part at
the rates that this machine reaches on matrices of the same shapes (`machine_rates.py`, `step_costs.py`): everything
else (normalisation, activation functions, drawing tokens, Python, retrieval) is counted as zero. GRPO has the same
rollouts and updates, so a step of both is measured on the same step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.hardware import prefers_bfloat16
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.fetch import cache_folder
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic
from algorithms.common.training.config import OptimizerConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from benchmarks.machine_rates import machine_rates
from benchmarks.measure import Line
from benchmarks.policies import random_policy
from benchmarks.rollout import AlwaysSearches, FixedTurnEnd, LongPassages
from benchmarks.step_costs import HEADER, ModelShape, Part, Rates, markdown, row, total
from benchmarks.watched_step import GAIN, StepWatch
from igsearch_env.information_gain import InformationGainConfig
from retrievers.program import REFUSED, end

ShapeName = Literal["bundled", "smollm2-135m", "qwen2.5-0.5b", "tiny"]
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1_536, "num_attention_heads": 9, "num_key_value_heads": 3}
AIMS = {"bundled": 2.0, "smollm2-135m": 1.5, "qwen2.5-0.5b": 1.5}  # step over floor
GAIN_AIM, OVER_GRPO_AIM = 1.3, 1.3


@dataclass(frozen=True)
class Workload:
    """A model of random weights or in the cache, and a step in which every turn is a search of a fixed length."""

    shape: str | dict[str, int]
    layers: int
    vocabulary: int
    questions: int
    group: int
    searches: int = 2
    turn: int = 32
    observation: int = 80
    checkpointing: bool = False


WORKLOADS = {
    "smollm2-135m": Workload(SMOLLM2, 30, 49_152, 8, 4),
    "qwen2.5-0.5b": Workload("qwen2.5-0.5b", 24, 151_936, 2, 4, checkpointing=True),
    "tiny": Workload("small", 2, 1_225, 2, 2, turn=8, observation=30),
}


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    shape: ShapeName = "bundled"
    """Shape of the model; tiny is for tests of this script."""
    repeats: int = 3
    """Measured steps, after one that warms up; the median is reported."""
    layers: int | None = None
    """Number of layers; None: as in the model."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products of models other than the bundled one; auto: bfloat16 where it is much faster."""
    threads: int | None = None
    """Threads of torch; None: as a run chooses."""
    processor_time: bool = False
    """Measure processor time in place of seconds, on a machine that does other work; needs --threads 1."""
    markdown: bool = False
    """Print the table as Markdown."""


def main(args: Args) -> None:
    """Print the table of a step, then what it is judged by."""
    if args.processor_time and args.threads != 1:
        end("error: --processor-time counts the time of every thread; give --threads 1 with it", REFUSED)
    rates, parts, results = measured(args)
    print(f"rates: {described(rates)}")
    if args.markdown:
        print(markdown(HEADER, [row(part) for part in (*parts, total("**step**", parts))]))
    else:
        for cells in (HEADER, *(row(part) for part in (*parts, total("step", parts)))):
            print("  ".join(f"{cell:>{24 if n == 0 else 12}}" for n, cell in enumerate(cells)))
    for line in results:
        aim = "" if line.target is None else f" (aim: at most {line.target:g}{'' if line.ok else ', missed'})"
        print(f"{line.name}: {line.value:.3g} {line.unit}{aim}  {line.detail}")


def lines(repeats: int) -> list[Line]:
    """The section `step` of the benchmarks: the bundled defaults."""
    rates, parts, results = measured(Args(repeats=repeats))
    table = [
        Line(f"  {part.name}", part.measured, "s", detail=f"floor {part.floor:.3f} s, {part.tokens:,} tokens")
        for part in parts
    ]
    return [*results, *table, Line("attention products", rates.attention / 1e9, "GFLOP/s", detail=described(rates))]


def described(rates: Rates) -> str:
    """The rates in words."""
    products = ", ".join(f"{rate / 1e9:,.0f} with {rows:,} rows" for rows, rate in rates.products if rows in (1, 32))
    return (
        f"products {rates.products[-1][1] / 1e9:,.0f} GFLOP/s ({products}), attention {rates.attention / 1e9:,.0f} "
        f"GFLOP/s, memory {rates.bandwidth / 1e9:,.0f} GB/s, {torch.get_num_threads()} threads"
    )


def measured(args: Args) -> tuple[Rates, list[Part], list[Line]]:
    """Rates of the machine, the parts of the median step, and medians over steps of what a step is judged by."""
    with begun(args) as (run, algorithm):
        clock = time.process_time if args.processor_time else time.perf_counter
        shape = ModelShape.of(run.policy.model.config)
        rates = machine_rates(shape, dtype=run.policy.compute_dtype or run.policy.model.dtype, clock=clock)
        watch, steps = StepWatch(run, clock), []
        for number in range(1, args.repeats + 2):
            buffer, advantages = watch.step(algorithm, number)
            if number > 1:
                steps.append(watch.parts(buffer, advantages, rates))
            del buffer
    return rates, *judged(steps, AIMS.get(args.shape))


def judged(steps: Sequence[list[Part]], aim: float | None) -> tuple[list[Part], list[Line]]:
    """The step whose time over its floor is the median, and what is judged, over all steps."""
    wholes = [total("step", parts) for parts in steps]
    gains = [next(part for part in parts if part.name == GAIN) for parts in steps]
    order = sorted(range(len(steps)), key=lambda n: wholes[n].ratio)
    over_grpo = [w.measured / (w.measured - g.measured) for w, g in zip(wholes, gains, strict=True)]
    bounds = [w.floor / (w.floor - g.floor) for w, g in zip(wholes, gains, strict=True)]
    seconds, floor = (
        statistics.median(values) for values in zip(*((w.measured, w.floor) for w in wholes), strict=True)
    )
    return steps[order[len(order) // 2]], [
        Line(
            "IG-GRPO step over its floor",
            statistics.median(whole.ratio for whole in wholes),
            target=aim,
            at_most=True,
            detail=f"{seconds:.2f} s, floor {floor:.2f} s",
        ),
        Line(
            "information gain over its own floor",
            statistics.median(gain.ratio for gain in gains),
            target=GAIN_AIM,
            at_most=True,
            detail=f"{statistics.median(gain.tokens for gain in gains):,.0f} tokens",
        ),
        Line(
            "IG-GRPO step over GRPO step",
            statistics.median(over_grpo),
            target=OVER_GRPO_AIM,
            at_most=True,
            detail=f"{statistics.median(bounds):.2f} if every part took its floor",
        ),
    ]


@contextmanager
def begun(args: Args) -> Iterator[tuple[Run, IGGRPO]]:
    """A run of the workload of a shape, before its first step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.shape == "bundled":
            config, retriever = IGGRPOConfig(run_dir=folder / "run"), None
        else:
            work = WORKLOADS[args.shape]
            config = _config(args, work, folder)
            retriever = LongPassages(random_policy("small", 1), 3 * work.observation)  # it is shown one of three
        algorithm = IGGRPO(config)
        make_torch_deterministic(config.seed, args.threads)  # which sets the threads of rates, too
        run = Run(algorithm, config, retriever)
        if args.shape != "bundled":
            sampler = run.sampler
            sampler.policy.tokenizer = AlwaysSearches(sampler.policy.tokenizer.hf_tokenizer)
            sampler.turn_end = FixedTurnEnd(sampler.policy.tokenizer, run.protocol.stop_strings)
            sampler.turn_end.turn = work.turn
        yield run, algorithm
        run.close()


def _config(args: Args, work: Workload, folder: Path) -> IGGRPOConfig:
    path = cache_folder() / "models" / args.shape
    context = 256 + (work.searches + 1) * (work.turn + work.observation + 60)
    if not (path / "config.json").is_file() or args.layers is not None:
        path = folder / "model"
        made = random_policy(work.shape, args.layers or work.layers, vocabulary=work.vocabulary, context_length=context)
        made.save(path)
    bfloat16 = args.compute_dtype == "bfloat16" or (args.compute_dtype == "auto" and prefers_bfloat16())
    return IGGRPOConfig(
        run_dir=folder / "run",
        eval_every=0,
        policy=PolicyConfig(
            path=str(path),
            context_length=context,
            compute_dtype="bfloat16" if bfloat16 else None,
            gradient_checkpointing=work.checkpointing,
        ),
        env=EnvConfig(top_k=1, max_searches=work.searches, max_observation_tokens=work.observation),
        rollout=RolloutConfig(questions_per_step=work.questions, group_size=work.group, max_new_tokens=work.turn),
        information_gain=InformationGainConfig(random_source="corpus"),
        optimizer=OptimizerConfig(token_budget=2_048),
    )


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
