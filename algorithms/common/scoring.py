"""Information gain by the policy that is being trained: `PolicyScorer`, and the pass over a whole buffer.

Every trajectory is read once. Its branches (the answer after the real evidence; each random evidence with the answer
after it) continue from the key/value cache of the prefix that they share:

    trunk    prompt  query_1  evidence_1  query_2  evidence_2          read once
    branch                    random_11 <answer> a*                     continues the trunk after query_1
    branch                              <answer> a*                     continues the trunk after evidence_1
    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from transformers.cache_utils import Cache

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.decoding import GrowingLayer
from algorithms.common.policy import Policy
from igsearch_env.information_gain import InformationGain, search_steps
from igsearch_env.scorers import ScoreRequest, Segment, weighted_mean

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Branch:
    """`ids` continue the first `shared` tokens of trunk number `trunk`; the last `answer` of them are scored."""

    trunk: int
    shared: int
    ids: Ids
    answer: int


class PolicyScorer:
    """Scores answers by a policy's token log-probs at temperature 1, without gradient.

    Contexts beyond the model's are cut on the left, as in the authors' code (4,096 tokens there).

    Args:
        policy: the model; its weights at the time of the call are used.
        token_budget: padded tokens of trunks a forward pass; branches take at most four times as many cache columns.
        shared: read shared prefixes once. False reads every branch from its first token: the plain form, for checks.
    """

    def __init__(self, policy: Policy, *, token_budget: int = 8_192, shared: bool = True) -> None:
        self.policy = policy
        self.token_budget = token_budget
        self.shared = shared

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One score per evidence of each request, in nats."""
        if not self.shared:
            return self._score_plain(requests)
        trunks, branches = self._plan(requests)
        # Siblings often ask the same: a branch that reads the same tokens as another is scored once.
        reads = [(trunks[branch.trunk][: branch.shared], branch.ids) for branch in branches]
        first_of: dict[tuple[Ids, Ids], int] = {}
        for number, read in enumerate(reads):
            first_of.setdefault(read, number)
        by_trunk: dict[int, list[int]] = {}
        for number in first_of.values():
            by_trunk.setdefault(branches[number].trunk, []).append(number)
        used = list(by_trunk)
        values: dict[int, float] = {}
        for batch in self._batches([len(trunks[trunk]) for trunk in used], self.token_budget):
            chosen_trunks = [used[i] for i in batch]
            layers = self._read_trunks([trunks[trunk] for trunk in chosen_trunks])
            row_of = {trunk: row for row, trunk in enumerate(chosen_trunks)}
            members = [number for trunk in chosen_trunks for number in by_trunk[trunk]]
            columns = [branches[number].shared + len(branches[number].ids) for number in members]
            for part in self._batches(columns, 4 * self.token_budget):
                chosen = [members[i] for i in part]
                parts = self._score_branches(layers, row_of, [branches[number] for number in chosen])
                values.update(zip(chosen, parts, strict=True))
        scores = [values[first_of[read]] for read in reads]
        flat = iter(scores)
        return [[next(flat) for _ in request.evidences] for request in requests]

    # ---------------------------------------------------------------- what is shared with what

    def _plan(self, requests: Sequence[ScoreRequest]) -> tuple[list[Ids], list[_Branch]]:
        """Trunks to read and the branches that continue them, in the order of requests and evidences.

        A request whose context continues that of the request before it (the next search of one trajectory) extends
        the same trunk.
        """
        trunks: list[Ids] = []
        branches: list[_Branch] = []
        for request in requests:
            answer = self.policy.encode(request.answer)
            tail = self.policy.encode(request.answer_prefix) + answer
            evidences = [self._ids((evidence,)) for evidence in request.evidences]
            context = self._ids(request.context)
            longest = max(map(len, evidences)) + len(tail)
            context = context[max(0, len(context) + longest - self.policy.context_length) :]
            real = context + evidences[0]
            if trunks and (real[: len(trunks[-1])] == trunks[-1]):
                trunks[-1] = real
            elif not (trunks and trunks[-1][: len(real)] == real):
                trunks.append(real)
            trunk = len(trunks) - 1
            # The real evidence is part of the trunk: only the answer is read after it.
            branches.append(_Branch(trunk, len(real), tail, len(answer)))
            branches += [_Branch(trunk, len(context), ids + tail, len(answer)) for ids in evidences[1:]]
        return trunks, branches

    def _ids(self, segments: Sequence[Segment]) -> Ids:
        return tuple(chain.from_iterable(s.ids if s.ids is not None else self.policy.encode(s.text) for s in segments))

    @staticmethod
    def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """Places of like length together, each batch of at most `budget` padded tokens (or one place)."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        while order:
            size = max(1, budget // max(lengths[order[0]], 1))
            yield order[:size]
            order = order[size:]

    # ---------------------------------------------------------------- passes

    def _read_trunks(self, trunks: Sequence[Ids]) -> list[GrowingLayer]:
        """Keys and values of the trunks, padded on the right."""
        layers = [GrowingLayer() for _ in range(self.policy.model.config.num_hidden_layers)]
        ids = self._padded(trunks)
        self.policy.hidden_states(ids, past_key_values=Cache(layers=layers), use_cache=True)
        return layers

    def _score_branches(
        self, trunk_layers: Sequence[GrowingLayer], row_of: dict[int, int], branches: Sequence[_Branch]
    ) -> list[float]:
        device = self.policy.device
        rows = torch.tensor([row_of[b.trunk] for b in branches], device=device)
        shared = torch.tensor([b.shared for b in branches], device=device)
        old = int(shared.max())
        ids = self._padded([b.ids for b in branches])
        m = ids.shape[1]
        layers = [layer.fork(rows, old, room=m) for layer in trunk_layers]
        columns = torch.arange(old + m, device=device)
        queries = columns[old:]
        # A branch token sees its trunk up to the fork, and its own branch up to itself.
        mask = (columns < shared[:, None])[:, None, :] | ((columns >= old) & (columns <= queries[:, None]))
        hidden = self.policy.hidden_states(
            ids,
            attention_mask=self.policy.attention_mask(mask[:, None]),
            position_ids=shared[:, None] + torch.arange(m, device=device),
            past_key_values=Cache(layers=layers),
            use_cache=True,
        )
        return self._answer_scores(hidden, ids, branches)

    def _answer_scores(self, hidden: torch.Tensor, ids: torch.Tensor, branches: Sequence[_Branch]) -> list[float]:
        """Weighted mean log-prob of each row's last tokens."""
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, branch in enumerate(branches):
            mask[row, len(branch.ids) - branch.answer : len(branch.ids)] = True
        logprobs, _ = self.policy.logprobs_of(hidden, ids, mask)
        values = iter(logprobs.tolist())
        return [weighted_mean([next(values) for _ in range(branch.answer)]) for branch in branches]

    def _padded(self, rows: Sequence[Ids]) -> torch.Tensor:
        ids = torch.full((len(rows), max(map(len, rows))), self.policy.pad_id)
        for row, values in enumerate(rows):
            ids[row, : len(values)] = torch.tensor(values)
        return ids.to(self.policy.device)

    def _score_plain(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Every branch from its first token."""
        trunks, branches = self._plan(requests)
        whole = [_Branch(0, 0, trunks[b.trunk][: b.shared] + b.ids, b.answer) for b in branches]
        scores = [0.0] * len(whole)
        for batch in self._batches([len(b.ids) for b in whole], self.token_budget):
            ids = self._padded([whole[i].ids for i in batch])
            values = self._answer_scores(self.policy.hidden_states(ids), ids, [whole[i] for i in batch])
            for i, value in zip(batch, values, strict=True):
                scores[i] = value
        flat = iter(scores)
        return [[next(flat) for _ in request.evidences] for request in requests]


def measure_information_gain(buffer: RolloutBuffer, information_gain: InformationGain) -> None:
    """Value every search of a buffer, in one scoring call; random evidence comes from the whole buffer."""
    steps = search_steps(buffer.trajectories)
    for step, gain in zip(steps, information_gain.measure(steps), strict=True):
        step.trajectory.turns[step.index].gain = gain
