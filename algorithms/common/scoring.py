"""Information gain by the policy that is being trained: `PolicyScorer`, and the pass over a whole buffer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.policy import Policy
from igsearch_env.information_gain import InformationGain, search_steps
from igsearch_env.scorers import ScoreRequest, Segment, weighted_mean


class PolicyScorer:
    """Scores answers by a policy's token log-probs at temperature 1, without gradient.

    Every branch is read from its first token. Contexts beyond the model's are cut on the left, as in the
    authors' code (4,096 tokens there).

    Args:
        policy: the model; its weights at the time of the call are used.
        token_budget: padded tokens a forward pass.
    """

    def __init__(self, policy: Policy, *, token_budget: int = 16_384) -> None:
        self.policy = policy
        self.token_budget = token_budget

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One score per evidence of each request, in nats."""
        rows: list[tuple[int, ...]] = []
        answers: list[int] = []
        for request in requests:
            context = self._ids(request.context)
            answer = self.policy.encode(request.answer)
            prefix = self.policy.encode(request.answer_prefix)
            for evidence in request.evidences:
                ids = context + self._ids((evidence,)) + prefix + answer
                rows.append(ids[-self.policy.context_length :])
                answers.append(len(answer))
        scores = iter(self._score_rows(rows, answers))
        return [[next(scores) for _ in request.evidences] for request in requests]

    def _ids(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(
            chain.from_iterable(s.ids if s.ids is not None else self.policy.encode(s.text) for s in segments)
        )

    @torch.no_grad()
    def _score_rows(self, rows: Sequence[tuple[int, ...]], answers: Sequence[int]) -> list[float]:
        """Score of the last `answers[i]` tokens of `rows[i]`."""
        scores = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            size = max(1, self.token_budget // len(rows[order[-1]]))
            batch, order = order[-size:], order[:-size]
            T = max(len(rows[i]) for i in batch)
            ids = torch.full((len(batch), T), self.policy.pad_id)
            mask = torch.zeros(len(batch), T, dtype=torch.bool)
            for b, i in enumerate(batch):
                ids[b, : len(rows[i])] = torch.tensor(rows[i])
                mask[b, len(rows[i]) - answers[i] : len(rows[i])] = True
            logprobs, _ = self.policy.token_logprobs(ids.to(self.policy.device), mask.to(self.policy.device))
            for i, values in zip(batch, logprobs.split([answers[i] for i in batch]), strict=True):
                scores[i] = weighted_mean(values.tolist())
        return scores


def measure_information_gain(buffer: RolloutBuffer, information_gain: InformationGain) -> None:
    """Value every search of a buffer, in one scoring call; random evidence comes from the whole buffer."""
    steps = search_steps(buffer.trajectories)
    for step, gain in zip(steps, information_gain.measure(steps), strict=True):
        step.trajectory.turns[step.index].gain = gain
