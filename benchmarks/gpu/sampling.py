"""The built-in decoder by number of episodes, with and without cuDNN's attention; information gain over its floor."""

from __future__ import annotations

import statistics
import time

import torch

from algorithms.common.model.kv_spans import whole_pages
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.decoder import Decoder
from benchmarks.gpu.sizes import Report, Sizes
from benchmarks.information_gain import branch_passes, make_requests, read_trunks
from benchmarks.machine_rates import synchronize
from benchmarks.rollout import FixedTurnEnd
from benchmarks.step_costs import ModelShape, Pass, Rates, forward
from igsearch_env.protocols import make_protocol
from retrievers.random_streams import random_stream


def decoder(sizes: Sizes, report: Report) -> None:
    """Seconds of decoding steps. Each step has shapes that no step before it had."""
    policy = sizes.policy()
    rates = sizes.rates(policy)
    # Without cuDNN first: it is the faster one where cuDNN plans each shape, so that the budget ends the slower ones.
    for cudnn in (False, True):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        for slots in sizes.slots:
            report({"slots": slots, "cudnn attention": cudnn, **_decode(sizes, policy, rates, slots)})
        if sizes.device != "cuda":
            break


def _decode(sizes: Sizes, policy: Policy, rates: Rates, slots: int) -> dict[str, float | list[int]]:
    rng = random_stream("contexts of the decoder on a GPU", slots)
    turn_end = FixedTurnEnd(policy.tokenizer, make_protocol().stop_strings)
    turn_end.turn = sizes.steps + 1
    shortest, longest = sizes.prompt
    policy.context_length = longest + turn_end.turn
    made = Decoder(
        policy,
        turn_end,
        slots=slots,
        max_new_tokens=turn_end.turn,
        temperature=1.0,
        kv_cache_tokens=slots * whole_pages(policy.context_length),
        pass_tokens=16_384,
    )
    lengths = rng.integers(shortest, longest, slots).tolist()
    for number, length in enumerate(lengths):
        made.begin(rng.integers(300, 1_200, length).tolist(), random_stream("draws of the decoder on a GPU", number))
    synchronize(sizes.device)
    start = time.perf_counter()
    made.prefill()
    synchronize(sizes.device)
    prefill, taken, rows = time.perf_counter() - start, [], []
    while made.writing:
        rows.append(made.writing)
        start = time.perf_counter()
        made.decode_step()
        synchronize(sizes.device)
        taken.append(time.perf_counter() - start)
    taken, rows = taken[:-1], rows[:-1]  # the last step draws tokens only
    size = sizes.precision.itemsize
    one = Pass(slots, sum(lengths), sum(lengths), slots)
    shape = ModelShape.of(policy.model.config)
    floor = rates.seconds(forward(shape, [one], size))
    read = Pass.of_blocks([(length, 0) for length in lengths], slots)
    prefill_floor = rates.seconds(forward(shape, [read], size))
    return {
        "read": sum(lengths),
        "decoded": rows,
        "seconds a step": statistics.median(taken),
        "slowest step": max(taken),
        "floor of a step": floor,
        "over the floor": statistics.median(taken) / floor,
        "prefill": prefill,
        "prefill over its floor": prefill / prefill_floor,
    }


def gain(sizes: Sizes, report: Report) -> None:
    """Seconds of information gain over trajectories that have been read, over the floor of its operations."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    policy = sizes.policy()
    rates = sizes.rates(policy)
    shape = ModelShape.of(policy.model.config)
    for count in (1, sizes.trajectories):
        requests = make_requests(
            policy, context=sizes.context, evidence=sizes.evidence, searches=2, trajectories=count, num_random=3
        )
        scorer = PolicyScorer(policy, prefixes=read_trunks(policy, requests), pass_tokens=16_384)
        taken = []
        for _ in range(3):
            synchronize(sizes.device)
            start = time.perf_counter()
            scorer.score(requests)
            synchronize(sizes.device)
            taken.append(time.perf_counter() - start)
        passes = branch_passes(policy, requests, scorer.pass_tokens)
        floor = rates.seconds(forward(shape, passes, sizes.precision.itemsize))
        report(
            {
                "trajectories": count,
                "tokens": sum(one.tokens for one in passes),
                "first": taken[0],
                "seconds": min(taken),
                "floor": floor,
                "over the floor": min(taken) / floor,
            }
        )
