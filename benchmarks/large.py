"""One IG-GRPO step of the trainer with a model of realistic shape and random weights.

    python -m benchmarks.large                                  Qwen2.5-3B on a GPU with 80 GB or more, all weights
    python -m benchmarks.large --lora-rank 16 --dtype bfloat16 --compute-dtype None --sampler-dtype None
    python -m benchmarks.large --device cpu --shape qwen2.5-0.5b --dtype bfloat16 --compute-dtype None \\
        --sampler-dtype None --questions-per-step 4 --group-size 4 --max-searches 2 --max-new-tokens 64 \\
        --observation 200
    python -m benchmarks.large --device cpu --shape small --layers 2 --max-new-tokens 16 --observation 60 \\
        --questions-per-step 2

Every turn is a search with a fixed number of tokens. By default: turns of 512 tokens, observations of about 400 tokens
(three passages of 100 words), 5 searches, G = 5; float32 weights, bfloat16 matrix products and a bfloat16 copy for
sampling. Reports seconds by part, the share of information gain, generated tokens per second compared with the memory
bandwidth, the share of the device's matrix rate that the update reaches, and peak memory compared with the plan.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.memory.plan import plan_memory
from algorithms.common.model.config import Dtype, LoraConfig, PolicyConfig
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic
from algorithms.common.trainer import collect_batch
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.policy_update import recompute_logprobs
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from benchmarks.measure import Line, peak_gigabytes
from benchmarks.policies import LAYERS, layer_parameters, matrix_rate, random_policy
from benchmarks.rollout import AlwaysSearches, FixedTurnEnd, LongPassages
from benchmarks.training_step import update_policy
from igsearch_env.information_gain import InformationGainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Args:
    """The shape of a step."""

    device: str = "cuda"
    """Device: cuda or cpu."""
    shape: str = "qwen2.5-3b"
    """Shape of the model, a name of benchmarks/policies.py."""
    layers: int | None = None
    """Number of layers; None: as in the model."""
    dtype: Dtype = "float32"
    """Precision of the trained weights."""
    compute_dtype: Dtype | None = "bfloat16"
    """Precision of matrix products; None: that of the weights."""
    sampler_dtype: Dtype | None = "bfloat16"
    """Precision of a copy of the weights for sampling and scoring; None: no copy."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass."""
    lora_rank: int = 0
    """Rank of the LoRA adapters; 0: train all weights."""
    vocabulary: int = 151_936
    """Vocabulary size of the output layer."""
    questions_per_step: int = 8
    """Questions per step."""
    group_size: int = 5
    """Rollouts per question, G."""
    max_searches: int = 5
    """Searches per episode; every episode uses all of them."""
    max_new_tokens: int = 512
    """Tokens per turn; every turn has this length."""
    observation: int = 400
    """Tokens of an observation of three passages."""
    token_budget: int = 8_192
    """Tokens per forward pass and per micro-batch."""
    kv_cache_tokens: int = 262_144
    """Size of the KV cache in tokens."""


def main(args: Args) -> None:
    """Run two steps, the first as a warm-up, and print the measurements of the second."""
    console = Console()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "error: no GPU found; give --device cpu with a small --shape, or run this on a machine with a GPU"
        )
    for line in lines(args):
        verdict = "" if line.ok else "  target missed"
        console.print(f"{line.name}: {line.value:.3g} {line.unit}{verdict}  [dim]{line.detail}[/dim]", highlight=False)


def lines(args: Args) -> list[Line]:
    """The measurements of one step."""
    context = 256 + (args.max_searches + 1) * args.max_new_tokens + args.max_searches * (args.observation + 100)
    layers = args.layers or LAYERS[args.shape]
    with tempfile.TemporaryDirectory() as name:
        made = random_policy(
            args.shape, layers, vocabulary=args.vocabulary, context_length=context, dtype=DTYPES[args.dtype]
        )
        made.save(Path(name) / "model")
        retriever = LongPassages(made, args.observation)
        del made
        config = _config(args, Path(name), context)
        algorithm = IGGRPO(config)
        planned = plan_memory(config, needs_reference=False, needs_critic=False, eval_questions=0).total / 1e9
        make_torch_deterministic(config.seed)
        run = Run(algorithm, config, retriever)
        temperature = config.rollout.temperature
        sampler = run.sampler
        sampler.policy.tokenizer = AlwaysSearches(sampler.policy.tokenizer.hf_tokenizer)
        sampler.turn_end = FixedTurnEnd(sampler.policy.tokenizer, run.protocol.stop_strings)
        sampler.turn_end.turn = args.max_new_tokens
        for step in (1, 2):  # the first is a warm-up
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times: dict[str, float] = {}
            buffer = _timed(args, times, "rollout", partial(collect_batch, run, algorithm, step))
            if not run.sampler.exact:
                _timed(args, times, "old log-probs", partial(recompute_logprobs, run.learner, buffer, temperature))
            gain = run.information_gain(step, buffer.prefixes)
            _timed(args, times, "information gain", partial(measure_information_gain, buffer, gain))
            buffer.release_prefixes()
            advantages = algorithm.advantages(buffer)
            _timed(args, times, "update", partial(update_policy, run, buffer, advantages, step))
            _timed(args, times, "weights", run.sampler.sync_weights)
        run.close()
        peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else peak_gigabytes()
        return _lines(args, run, buffer, times, peak, planned)


def _config(args: Args, folder: Path, context: int) -> IGGRPOConfig:
    return IGGRPOConfig(
        eval_every=0,
        run_dir=folder / "run",
        policy=PolicyConfig(
            path=str(folder / "model"),
            dtype=args.dtype,
            compute_dtype=args.compute_dtype,
            device=args.device,
            context_length=context,
            gradient_checkpointing=args.gradient_checkpointing,
            lora=LoraConfig(rank=args.lora_rank),
        ),
        env=EnvConfig(max_searches=args.max_searches),
        rollout=RolloutConfig(
            questions_per_step=args.questions_per_step,
            group_size=args.group_size,
            max_new_tokens=args.max_new_tokens,
            kv_cache_tokens=args.kv_cache_tokens,
            token_budget=args.token_budget,
            dtype=args.sampler_dtype,
        ),
        information_gain=InformationGainConfig(random_source="corpus"),
        optimizer=OptimizerConfig(lr=1e-6, warmup_steps=0, token_budget=args.token_budget),
    )


def _lines(
    args: Args, run: Run, buffer: RolloutBuffer, times: dict[str, float], peak: float, planned: float
) -> list[Line]:
    weights = layer_parameters(run.policy)
    written = int(buffer.policy_tokens.sum())
    tokens = sum(len(sequence.ids) for sequence in buffer.sequences)
    matrices = DTYPES[args.compute_dtype or args.dtype]
    rate = matrix_rate(args.device, matrices, 8_192 if args.device == "cuda" else 2_048)
    each = 4 if args.lora_rank else 6  # frozen weights have no gradient
    operations = each * (weights * tokens + run.policy.model.get_output_embeddings().weight.numel() * written)
    steps = written / len(buffer.trajectories)
    bytes_a_step = sum(p.numel() * p.element_size() for p in run.sampler.policy.model.parameters())
    bandwidth = _bandwidth(args)
    whole = sum(times.values())
    at_scale = args.shape == "qwen2.5-3b"
    return [
        Line(
            "step",
            whole,
            "s",
            detail=", ".join(f"{part} {taken:.2f} s" for part, taken in times.items())
            + f"; {len(buffer.trajectories)} trajectories of {tokens / len(buffer.trajectories):,.0f} tokens, "
            f"{tokens / whole:,.0f} tokens/s",
        ),
        Line(
            "IG-GRPO step over GRPO step",
            whole / (whole - times["information gain"]),
            target=1.05 if at_scale else None,
            at_most=True,
        ),
        Line(
            "generated tokens per second",
            written / times["rollout"],
            "tokens/s",
            detail=f"{bytes_a_step * steps / bandwidth / times['rollout']:.0%} of the rollout is reading the weights, "
            f"once per token, at {bandwidth / 1e9:,.0f} GB/s",
        ),
        Line(
            "model FLOP utilisation of the update",
            operations / times["update"] / rate,
            "",
            detail=f"{rate / 1e12:.3g} TFLOP/s; recomputation is not counted",
        ),
        Line("peak memory", peak, "GB", detail=f"planned: {planned:.1f} GB"),
    ]


def _timed(args: Args, times: dict[str, float], part: str, run: Callable[[], T]) -> T:
    if args.device == "cuda":
        torch.cuda.synchronize()  # excludes kernels that were launched before
    start = time.perf_counter()
    result = run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    times[part] = time.perf_counter() - start
    return result


def _bandwidth(args: Args) -> float:
    """Bytes per second, read and written, when copying a large tensor."""
    size = 2**30 if args.device == "cuda" else 2**27
    source = torch.empty(size, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    target.copy_(source)
    times: dict[str, float] = {}
    _timed(args, times, "copies", lambda: [target.copy_(source) for _ in range(4)])
    return 4 * 2 * size / times["copies"]


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
