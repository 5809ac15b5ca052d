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
sampling. Reports each part beside its floor (`step_model.py`), information gain over its own floor, generated tokens
per second, the share of the device's matrix rate that the update reaches, and peak memory compared with the plan.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.memory.plan import plan_memory
from algorithms.common.model.config import Dtype, LoraConfig, PolicyConfig
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic
from algorithms.common.training.config import OptimizerConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from benchmarks.machine_rates import machine_rates
from benchmarks.measure import Line, peak_gigabytes
from benchmarks.policies import LAYERS, random_policy
from benchmarks.rollout import AlwaysSearches, FixedTurnEnd, LongPassages
from benchmarks.step_costs import ModelShape, Part, Rates, total
from benchmarks.step_model import described, judged
from benchmarks.watched_step import DECODE, PREFILL, ROLLOUT, UPDATE, StepWatch
from igsearch_env.information_gain import InformationGainConfig
from retrievers.program import REFUSED, end

AIM = 1.5  # step over floor


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
        end("error: no GPU found; give --device cpu with a small --shape, or run this on a machine with a GPU", REFUSED)
    for line in lines(args):
        verdict = "" if line.ok else "  target missed"
        console.print(f"{line.name}: {line.value:.3g} {line.unit}{verdict}  [dim]{line.detail}[/dim]", highlight=False)


def lines(args: Args) -> list[Line]:
    """The measurements of one step."""
    context = 256 + (args.max_searches + 1) * args.max_new_tokens + args.max_searches * (args.observation + 100)
    layers = args.layers or LAYERS[args.shape]
    with tempfile.TemporaryDirectory() as name:
        made = random_policy(
            args.shape,
            layers,
            vocabulary=args.vocabulary,
            context_length=context,
            device=args.device,
            dtype=DTYPES[args.dtype],
        )
        made.save(Path(name) / "model")
        retriever = LongPassages(made, args.observation)
        del made
        config = _config(args, Path(name), context)
        algorithm = IGGRPO(config)
        planned = plan_memory(config, needs_reference=False, needs_critic=False, eval_questions=0).total / 1e9
        make_torch_deterministic(config.seed)
        run = Run(algorithm, config, retriever)
        sampler = run.sampler
        sampler.policy.tokenizer = AlwaysSearches(sampler.policy.tokenizer.hf_tokenizer)
        sampler.turn_end = FixedTurnEnd(sampler.policy.tokenizer, run.protocol.stop_strings)
        sampler.turn_end.turn = args.max_new_tokens
        watch = StepWatch(run)
        for step in (1, 2):  # the first is a warm-up
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            buffer, advantages = watch.step(algorithm, step)
        peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else peak_gigabytes()
        run.close()
        shape = ModelShape.of(run.policy.model.config)
        rates = machine_rates(shape, args.device, DTYPES[args.compute_dtype or args.dtype])
        return _lines(watch.parts(buffer, advantages, rates), buffer, rates, peak, planned)


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


def _lines(parts: list[Part], buffer: RolloutBuffer, rates: Rates, peak: float, planned: float) -> list[Line]:
    _, judgements = judged([parts], AIM)
    whole = total("step", parts)
    written = int(buffer.policy_tokens.sum())
    rollout = sum(part.measured for part in parts if part.name in (PREFILL, DECODE, ROLLOUT))
    update = next(part for part in parts if part.name == UPDATE)
    return [
        *judgements,
        *(Line(f"  {p.name}", p.measured, "s", detail=f"floor {p.floor:.3f} s, {p.tokens:,} tokens") for p in parts),
        Line(
            "generated tokens per second",
            written / rollout,
            "tokens/s",
            detail=f"{len(buffer.trajectories)} trajectories of {np.mean(buffer.lengths):,.0f} tokens, "
            f"{int(buffer.lengths.sum()) / whole.measured:,.0f} tokens/s in all",
        ),
        Line(
            "FLOP utilisation of the update",
            update.operations / update.measured / rates.products[-1][1],
            "",
            detail=f"of {described(rates)}; what is computed again counts",
        ),
        Line("peak memory", peak, "GB", detail=f"planned: {planned:.1f} GB"),
    ]


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
