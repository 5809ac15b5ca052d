"""Epochs and mini-batches: the optimizer steps on one buffer, of a policy or of a critic."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np
from torch import Tensor

from algorithms.common.rollout.buffer import Float32s, Ints, RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.learner import Learner


class MiniBatchLoss(Protocol):
    """The loss of a micro-batch, as its share of the sum of a mini-batch, and values to log, summed likewise.

    The mini-batch has `tokens` policy tokens, or as many as `run_epochs` counts, and `sequences` trajectories.
    """

    def __call__(self, batch: MicroBatch, *, tokens: int, sequences: int) -> tuple[Tensor, dict[str, Tensor]]: ...


def run_epochs(
    learner: Learner,
    buffer: RolloutBuffer,
    values: Float32s,
    loss_of: MiniBatchLoss,
    *,
    rng: np.random.Generator,
    shuffle: bool,
    lr: float,
    what: str,
    skip_zeros: bool = False,
    counts_N: Ints | None = None,
) -> list[tuple[float, dict[str, float]]]:
    """`optimizer.epochs` passes over a buffer, each of `optimizer.num_minibatches` optimizer steps.

    Args:
        values: one per policy token, as `MicroBatch.advantages_BT`.
        shuffle: whether `rng` permutes the trajectories before each pass.
        what: names the update in messages.
        skip_zeros: read each sequence only up to its last value that is not 0, for a loss to which no other token
            contributes.
        counts_N: number of tokens of each trajectory that have a loss; default: its policy tokens.

    Returns the gradient norm of each optimizer step with the sums of the values that its loss logs.
    """
    count, options = len(buffer.trajectories), learner.options
    lengths = buffer.lengths_with(values) if skip_zeros else buffer.lengths
    counted = buffer.policy_tokens if counts_N is None else counts_N
    steps = []
    for _ in range(options.epochs):
        rows = rng.permutation(count) if shuffle else np.arange(count)
        for part in np.array_split(rows, options.num_minibatches):
            minibatch_loss = partial(loss_of, tokens=int(counted[part].sum()), sequences=len(part))
            chosen: list[int] = part.tolist()
            steps.append(learner.step(buffer, values, chosen, minibatch_loss, lr=lr, what=what, lengths=lengths))
    return steps
