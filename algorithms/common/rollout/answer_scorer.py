"""Information gain by the policy that is being trained: `PolicyScorer`, and its pass over a whole buffer.

Every trajectory is read at most once. Its branches (the answer after the real evidence; each random evidence with
the answer after it) continue the keys and values of the prefix that they share (`igsearch_env/branches.py`).

With T searches, contexts of c_t tokens, N evidences of d and answers of a, the branches are
sum_t (N (d + a) + a) tokens, where the plain form reads (1 + N) sum_t (c_t + d + a).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.kv_cache import CachedPrefixes, Ids, KVCache
from algorithms.common.model.packing import Block, pack, split_by_budget
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer
from igsearch_env.branches import Branch, plan
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import InformationGain, set_gains
from igsearch_env.scorers import ScoreRequest, weighted_mean


class PolicyScorer:
    """Scores answers by a policy's token log-probs at temperature 1, without gradient.

    Contexts longer than the model's are truncated on the left, as in the authors' code (4,096 tokens there).

    Args:
        policy: the model; its weights at the time of the call are used.
        pass_tokens: maximum tokens of a forward pass, and of the trunks that are held at once.
        prefixes: sequences that the policy has already read with these weights, to be reused.
        shared: read shared prefixes once. False reads every branch from its first token, padded: the plain form,
            for tests.
    """

    def __init__(
        self, policy: Policy, *, pass_tokens: int = 8_192, prefixes: CachedPrefixes | None = None, shared: bool = True
    ) -> None:
        self.policy = policy
        self.pass_tokens = pass_tokens
        self.prefixes = prefixes
        self.shared = shared

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One score per evidence of each request, in nats."""
        trunks, branches = self.plan(requests)
        scores = iter(self._score_shared(trunks, branches) if self.shared else self._score_plain(trunks, branches))
        return [[next(scores) for _ in request.evidences] for request in requests]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids of a whole episode, special tokens included."""
        return self.policy.tokenizer.decode_whole(ids)

    def plan(self, requests: Sequence[ScoreRequest]) -> tuple[list[Ids], list[Branch]]:
        """Trunks to read and the branches that continue them (`igsearch_env.branches.plan`)."""
        return plan(requests, self.policy.tokenizer, self.policy.context_length)

    # ---------------------------------------------------------------- passes

    def _score_shared(self, trunks: Sequence[Ids], branches: Sequence[Branch]) -> list[float]:
        # Siblings often send the same query: branches that read the same tokens are scored once.
        reads = [(trunks[b.trunk][: b.shared], b.ids, b.answer, b.head_weight) for b in branches]
        first_of: dict[tuple[Ids, Ids, int, float], int] = {}
        for number, read in enumerate(reads):
            first_of.setdefault(read, number)
        by_trunk: dict[int, list[int]] = {}
        for number in first_of.values():
            by_trunk.setdefault(branches[number].trunk, []).append(number)
        values: dict[int, float] = {}
        for store, starts in self._held(trunks, branches, by_trunk):
            # Sorted by length, so that attention needs few buckets.
            members = sorted(
                (number for trunk in starts for number in by_trunk[trunk]),
                key=lambda number: (branches[number].shared, len(branches[number].ids)),
            )
            for part in split_by_budget([len(branches[number].ids) - 1 for number in members], self.pass_tokens):
                chosen = [members[place] for place in part]
                values.update(zip(chosen, self._score_pass(store, starts, [branches[n] for n in chosen]), strict=True))
        return [values[first_of[read]] for read in reads]

    def _held(
        self, trunks: Sequence[Ids], branches: Sequence[Branch], by_trunk: dict[int, list[int]]
    ) -> Iterator[tuple[KVCache, dict[int, int]]]:
        """Batches of trunks with their keys and values: the store, and the row where each trunk begins in it."""
        held: dict[int, int] = {}
        unread: list[int] = []
        for trunk, numbers in by_trunk.items():
            needed = max(branches[number].shared for number in numbers)
            common, start = self.prefixes.longest(trunks[trunk]) if self.prefixes is not None else (0, 0)
            if common >= needed:
                held[trunk] = start
            else:
                unread.append(trunk)
        if held:
            assert self.prefixes is not None
            yield self.prefixes.store, held
        unread.sort(key=lambda trunk: len(trunks[trunk]))
        for part in split_by_budget([len(trunks[trunk]) for trunk in unread], self.pass_tokens):
            chosen = [unread[place] for place in part]
            lengths = [len(trunks[trunk]) for trunk in chosen]
            starts = [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
            store = KVCache()
            store.reserve(sum(lengths))
            blocks = [Block(trunks[trunk], 0, start) for trunk, start in zip(chosen, starts, strict=True)]
            self.policy.forward_packed(pack(blocks, self.policy.device, store=store, keep=True))
            yield store, dict(zip(chosen, starts, strict=True))

    def _score_pass(self, store: KVCache, starts: dict[int, int], branches: Sequence[Branch]) -> list[float]:
        # Each answer token is predicted by the one before it, so that the last is not read.
        blocks = [Block(branch.ids[:-1], branch.shared, starts[branch.trunk]) for branch in branches]
        packed = pack(blocks, self.policy.device, store=store)
        hidden_n = self.policy.forward_packed(packed)
        ends = [first + len(block.ids) for first, block in zip(packed.first, blocks, strict=True)]
        before = [p for end, b in zip(ends, branches, strict=True) for p in range(end - b.answer, end)]
        return self._weighted_means(
            hidden_n[before], [token for b in branches for token in b.ids[-b.answer :]], branches
        )

    def _weighted_means(self, hidden_n: torch.Tensor, targets: list[int], branches: Sequence[Branch]) -> list[float]:
        """Score of each branch from the hidden states before its answer tokens."""
        logprobs, _ = self.policy.logprobs_of(hidden_n, torch.tensor(targets, device=hidden_n.device))
        values = iter(logprobs.tolist())
        return [
            weighted_mean([next(values) for _ in range(branch.answer)], head_weight=branch.head_weight)
            for branch in branches
        ]

    def _score_plain(self, trunks: Sequence[Ids], branches: Sequence[Branch]) -> list[float]:
        """Score every branch from its first token, in padded batches."""
        whole = [trunks[b.trunk][: b.shared] + b.ids for b in branches]
        scores = [0.0] * len(whole)
        order = sorted(range(len(whole)), key=lambda i: len(whole[i]))
        while order:
            longest = len(whole[order[-1]])
            size = max(1, self.pass_tokens // longest)
            order, batch = order[:-size], order[-size:]
            ids = torch.full((len(batch), longest), self.policy.tokenizer.pad_id)
            mask = torch.zeros(ids.shape, dtype=torch.bool)
            for row, i in enumerate(batch):
                ids[row, : len(whole[i])] = torch.tensor(whole[i])
                mask[row, len(whole[i]) - branches[i].answer : len(whole[i])] = True
            ids, mask = ids.to(self.policy.device), mask.to(self.policy.device)
            hidden_n = self.policy.hidden_states(ids)[:, :-1][mask[:, 1:]]
            chosen = [branches[i] for i in batch]
            values = self._weighted_means(hidden_n, ids[mask].tolist(), chosen)
            for i, value in zip(batch, values, strict=True):
                scores[i] = value
        return scores


def measure_information_gain(
    buffer: RolloutBuffer, information_gain: InformationGain, processes: Processes | None = None
) -> None:
    """Set the gain of every search of a buffer, in one call per process; random evidence is from all of it.

    Gains of the sources `shuffled` and `random` are drawn for the whole buffer, alike in every process.
    """
    processes = processes or Processes()
    share = processes.share(len(buffer.groups))
    mine = [t for group in buffer.groups[share.start : share.stop] for t in group.trajectories]
    pool = search_steps(buffer.trajectories)
    steps = pool if processes.size == 1 else search_steps(mine)
    set_gains(pool, information_gain.of_batch(pool, steps, processes.all_gather_flat))
