"""Information gain: scoring with shared prefixes compared with plain scoring and with the bound of the token counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import torch

from algorithms.common.model.kv_cache import CachedPrefixes, KVCache
from algorithms.common.model.packing import Block, pack, split_by_budget
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer
from benchmarks.machine_rates import machine_rates
from benchmarks.measure import Line, interleaved, ratio
from benchmarks.policies import random_policy
from benchmarks.step_costs import ModelShape, Pass, forward
from igsearch_env.protocols import make_protocol
from igsearch_env.scorers import ScoreRequest, Segment
from retrievers.random_streams import random_stream

PREFIX = make_protocol().answer_prefix

EVIDENCE, SEARCHES, RANDOM = 400, 3, 3  # tokens per evidence, searches, N
CONTEXTS = (1_000, 2_000, 4_000)  # tokens before the last search's evidence


def make_requests(
    policy: Policy,
    *,
    context: int,
    searches: int = SEARCHES,
    evidence: int = EVIDENCE,
    num_random: int = RANDOM,
    trajectories: int = 1,
    seed: int = 0,
) -> list[ScoreRequest]:
    """Searches of synthetic trajectories: contexts grow evenly up to `context` tokens and include earlier evidence.

    Tokens are random words of the vocabulary; the answer has about ten tokens including its tag.
    """
    rng = random_stream("tokens of the information gain benchmark", seed)
    spacing = max(evidence + 20, 2 * context // (2 * searches - 1))
    ends = [context - (searches - 1 - t) * spacing for t in range(searches)]
    if ends[0] < 1:
        raise ValueError(f"context={context}: too short for {searches} searches of {evidence} tokens; give more")

    def words(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(300, 1_200, count).tolist())

    requests = []
    for _ in range(trajectories):
        history: list[Segment] = []
        length = 0
        for end in ends:
            history.append(Segment("", words(end - length)))
            found = Segment("", words(evidence))
            others = tuple(Segment("", words(evidence)) for _ in range(num_random))
            requests.append(ScoreRequest(tuple(history), (found, *others), PREFIX, " the name of a city far away"))
            history.append(found)
            length = end + evidence
    return requests


def token_counts(policy: Policy, requests: Sequence[ScoreRequest]) -> tuple[int, int, int]:
    """Tokens processed by plain scoring, by scoring with shared prefixes, and by the branches of the latter."""
    trunks, branches = PolicyScorer(policy).plan(requests)
    plain = sum(branch.shared + len(branch.ids) for branch in branches)
    own = sum(len(branch.ids) - 1 for branch in branches)  # the last token of an answer predicts nothing
    return plain, own + sum(map(len, trunks)), own


def branch_passes(policy: Policy, requests: Sequence[ScoreRequest], token_budget: int = 8_192) -> list[Pass]:
    """The passes over the branches, of which the trunks have been read."""
    _, branches = PolicyScorer(policy).plan(requests)
    passes = []
    for part in split_by_budget([len(branch.ids) - 1 for branch in branches], token_budget):
        blocks = [(len(branches[place].ids) - 1, branches[place].shared) for place in part]
        passes.append(Pass.of_blocks(blocks, sum(branches[place].answer for place in part)))
    return passes


def read_trunks(policy: Policy, requests: Sequence[ScoreRequest]) -> CachedPrefixes:
    """The KV cache of the trunks, as left by a rollout or by the recomputation of old log-probs."""
    trunks, _ = PolicyScorer(policy).plan(requests)
    store = KVCache()
    starts = [end - len(trunk) for end, trunk in zip(accumulate(map(len, trunks)), trunks, strict=True)]
    store.reserve(sum(map(len, trunks)))
    with torch.no_grad():
        for start, trunk in zip(starts, trunks, strict=True):
            policy.forward_packed(pack([Block(trunk, 0, start)], policy.device, store=store, keep=True))
    return CachedPrefixes(store, dict(zip(starts, trunks, strict=True)))


def score_plain(policy: Policy, requests: Sequence[ScoreRequest], token_budget: int = 8_192) -> None:
    """Score every branch from its first token, packed: plain scoring without padding, as fast as possible."""
    trunks, branches = PolicyScorer(policy).plan(requests)
    whole = [trunks[branch.trunk][: branch.shared] + branch.ids for branch in branches]
    with torch.no_grad():
        for part in split_by_budget([len(ids) for ids in whole], token_budget):
            policy.forward_packed(pack([Block(whole[place]) for place in part], policy.device))


def lines(
    repeats: int,
    *,
    shape: str = "qwen2.5-1.5b",
    layers: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Line]:
    """At contexts of 1,000, 2,000 and 4,000 tokens: the measured ratio divided by the bound of the token counts, and
    the time of the branches over their own floor of operations at this machine's rates.

    Uses a single layer of the shape, because the ratios do not depend on the number of layers.
    """
    policy = random_policy(shape, layers, device=device, dtype=dtype)
    rates = machine_rates(ModelShape.of(policy.model.config), device, dtype)
    measured = []
    for context in CONTEXTS:
        requests = make_requests(policy, context=context)
        plain, shared, merged = token_counts(policy, requests)
        scorers = {
            "shared": PolicyScorer(policy),
            "merged": PolicyScorer(policy, prefixes=read_trunks(policy, requests)),
        }
        expected = np.array(PolicyScorer(policy, shared=False).score(requests))
        worst = max(np.abs(np.array(scorer.score(requests)) - expected).max() for scorer in scorers.values())
        runs: dict[str, Callable[[], object]] = {
            name: partial(scorer.score, requests) for name, scorer in scorers.items()
        }
        runs["plain"] = partial(score_plain, policy, requests)
        times = interleaved(runs, repeats, warm_up=0)
        for name, bound in (("shared", plain / shared), ("merged", plain / merged)):
            speed_up = ratio(times["plain"], times[name])
            what = "shared" if name == "shared" else "shared, trajectory read already,"
            measured.append(
                Line(
                    f"IG {what} against plain, context {context:,}: share of the bound",
                    speed_up / bound,
                    target=0.9,
                    detail=f"{speed_up:.2f} times faster, token counts allow {bound:.2f}",
                )
            )
        floor = rates.seconds(
            forward(ModelShape.of(policy.model.config), branch_passes(policy, requests), dtype.itemsize)
        )
        measured.append(
            Line(
                f"IG of a trajectory read already over its own floor, context {context:,}",
                statistics.median(times["merged"]) / floor,
                target=1.3,
                at_most=True,
                detail=f"{statistics.median(times['merged']):.2f} s, floor {floor:.2f} s",
            )
        )
        measured.append(
            Line(
                f"IG shared against plain, context {context:,}: largest difference",
                float(worst),
                "nats",
                1e-4 if dtype == torch.float32 else None,
                at_most=True,
            )
        )
    return measured
