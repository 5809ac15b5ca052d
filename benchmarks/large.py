"""One IG-GRPO step at the shape of Qwen2.5-3B with random weights: what a GPU makes of it.

    python -m benchmarks.large                                  on a GPU with 80 GB or more, bfloat16
    python -m benchmarks.large --device cpu --shape small --layers 2 --turn 16 --observation 60 --dtype float32

Turns of 512 tokens, observations of about 400 tokens (three passages of 100 words), 5 searches, G = 5. Reported: the
share of information gain in a step, written tokens a second beside what memory bandwidth allows, the share of the
device's matrix rate that the update reaches, and peak memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import tyro
from rich.console import Console

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.decoding import Decoder
from algorithms.common.loss import LossConfig, policy_loss, token_weights
from algorithms.common.policy import DTYPES, Policy
from algorithms.common.rollout import collect
from algorithms.common.scoring import PolicyScorer, measure_information_gain
from benchmarks.measure import Line, peak_gigabytes
from benchmarks.policies import LAYERS, layer_parameters, matrix_rate, random_policy
from benchmarks.rollout import FixedTurns, LongPassages
from igsearch_env.engine import SearchEngine
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocol import Protocol
from igsearch_env.world.bundled import bundled_world

T = TypeVar("T")


@dataclass(frozen=True)
class Args:
    """The shape of a step."""

    device: str = "cuda"
    """cuda or cpu."""
    shape: str = "qwen2.5-3b"
    """A shape of benchmarks/policies.py."""
    layers: int | None = None
    """None: as many as the model has."""
    dtype: str = "bfloat16"
    """Of weights and optimizer states."""
    vocabulary: int = 151_936
    """Size of the output layer."""
    questions: int = 8
    """Questions a step."""
    group_size: int = 5
    """G."""
    searches: int = 5
    """Searches an episode."""
    turn: int = 512
    """Tokens a turn."""
    observation: int = 400
    """Tokens of three passages."""
    token_budget: int = 8_192
    """Tokens of a pass and of a micro-batch."""
    cache_tokens: int = 262_144
    """Tokens whose keys and values are held."""


def main(args: Args) -> None:
    """Run two steps, the first as a warm-up, and print the second's figures."""
    console = Console()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "error: no GPU here; give --device cpu with a small --shape, or run this on a machine with one"
        )
    for line in lines(args):
        verdict = "" if line.ok else "  falls short"
        console.print(f"{line.name}: {line.value:.3g} {line.unit}{verdict}  [dim]{line.detail}[/dim]", highlight=False)


def lines(args: Args) -> list[Line]:
    """The figures of one step."""
    context = 256 + (args.searches + 1) * args.turn + args.searches * (args.observation + 100)
    policy = random_policy(
        args.shape,
        args.layers or LAYERS[args.shape],
        vocabulary=args.vocabulary,
        context_length=context,
        device=args.device,
        dtype=DTYPES[args.dtype],
        policy_class=FixedTurns,
    )
    assert isinstance(policy, FixedTurns)
    policy.turn = args.turn
    questions = bundled_world().questions["train"][: args.questions]
    protocol = Protocol()
    retriever = LongPassages(policy, args.observation)
    engine = SearchEngine(questions, retriever, None, max_searches=args.searches, protocol=protocol)
    decoder = Decoder(
        policy,
        slots=args.questions * args.group_size,
        max_new_tokens=args.turn,
        temperature=1.0,
        cache_tokens=args.cache_tokens,
        token_budget=args.token_budget,
    )
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-6)
    for _ in range(2):  # the first is a warm-up
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        play = partial(collect, decoder, engine, questions, group_size=args.group_size, seed=(0,))
        rollout, buffer = _timed(args, play)
        scorer = PolicyScorer(policy, token_budget=args.token_budget, prefixes=decoder.prefixes())
        measure = InformationGain(InformationGainConfig(random_source="corpus"), scorer, protocol, retriever)
        gain, _ = _timed(args, partial(measure_information_gain, buffer, measure))
        update, _ = _timed(args, partial(_update, policy, optimizer, buffer, args.token_budget))
    return _lines(args, policy, buffer, rollout, gain, update)


def _lines(args: Args, policy: Policy, buffer: RolloutBuffer, rollout: float, gain: float, update: float) -> list[Line]:
    weights = layer_parameters(policy)
    written = int(buffer.policy_tokens.sum())
    tokens = sum(len(sequence.ids) for sequence in buffer.sequences)
    rate = matrix_rate(args.device, DTYPES[args.dtype], 8_192 if args.device == "cuda" else 2_048)
    operations = 6 * weights * tokens + 6 * policy.model.get_output_embeddings().weight.numel() * written
    steps = written / len(buffer.trajectories)
    bytes_a_step = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    bandwidth = _bandwidth(args)
    peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else peak_gigabytes()
    at_scale = args.shape == "qwen2.5-3b"
    return [
        Line(
            "IG-GRPO step over GRPO step",
            1 + gain / (rollout + update),
            target=1.05 if at_scale else None,
            at_most=True,
            detail=f"rollout {rollout:.2f} s, information gain {gain:.2f} s, update {update:.2f} s, "
            f"{len(buffer.trajectories)} trajectories of {tokens / len(buffer.trajectories):,.0f} tokens",
        ),
        Line(
            "written tokens a second",
            written / rollout,
            "tokens/s",
            detail=f"{bytes_a_step * steps / bandwidth / rollout:.0%} of the rollout is reading the weights, once a "
            f"token, at {bandwidth / 1e9:,.0f} GB/s",
        ),
        Line(
            "model FLOP utilisation of the update", operations / update / rate, "", detail=f"{rate / 1e12:.3g} TFLOP/s"
        ),
        Line("peak memory", peak, "GB"),
    ]


def _update(policy: Policy, optimizer: torch.optim.Optimizer, buffer: RolloutBuffer, budget: int) -> None:
    """Forward, backward and AdamW, with advantages drawn at random."""
    rng = np.random.default_rng(0)
    count = int(buffer.policy_tokens.sum())
    advantages = rng.standard_normal(count).astype(np.float32)
    optimizer.zero_grad()
    for micro_batch in buffer.micro_batches(advantages, range(len(buffer.trajectories)), budget, policy.pad_id):
        batch = micro_batch.to(policy.device)
        chosen, _ = policy.token_logprobs(batch.ids_BT, batch.mask_BT)
        logprobs_BT = torch.zeros_like(batch.old_logprobs_BT).masked_scatter(batch.mask_BT, chosen)
        loss = policy_loss(logprobs_BT, batch.old_logprobs_BT, batch.advantages_BT, batch.mask_BT, LossConfig())
        weights_BT = token_weights(
            batch.mask_BT, "token-mean", horizon=None, tokens=count, sequences=len(buffer.trajectories)
        )
        (loss.loss_BT * weights_BT).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _timed(args: Args, run: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def _bandwidth(args: Args) -> float:
    """Bytes a second of copying a large tensor: read and written."""
    size = 2**30 if args.device == "cuda" else 2**27
    source = torch.empty(size, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    target.copy_(source)
    taken, _ = _timed(args, lambda: [target.copy_(source) for _ in range(4)])
    return 4 * 2 * size / taken


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
