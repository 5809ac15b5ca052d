"""An optimizer step when memory runs out, and corrections for another sampler."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from buffers import mixed_buffer
from hypothesis import given
from hypothesis import strategies as st
from models import learner_of, tiny_policy
from torch import Tensor

from algorithms.common.base.errors import TrainingError
from algorithms.common.distributed.processes import Processes
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.config import LossConfig, OptimizerConfig
from algorithms.common.training.learner import Learner
from algorithms.common.training.loss import importance_weights, mismatch, policy_loss
from algorithms.common.training.micro_batching import is_out_of_memory


def learner_with(token_budget: int) -> Learner:
    """What trains a tiny policy."""
    policy = tiny_policy()
    policy.model.double()  # what is left is the split, not rounding
    return learner_of(policy, token_budget=token_budget)


def step(
    learner: Learner, room: int, error: BaseException | None = None
) -> tuple[float, dict[str, float], list[Tensor]]:
    """One step on a machine with room for `room` tokens."""
    buffer = mixed_buffer()
    values = np.linspace(-1, 1, int(buffer.policy_tokens.sum())).astype(np.float32)

    def loss_of(batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, _ = learner.module(batch.ids_BT, batch.mask_BT)
        if batch.ids_BT.numel() > room:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        loss = (chosen * batch.advantages_BT[batch.mask_BT]).sum()
        return loss, {"loss": loss.detach(), "tokens": batch.mask_BT.sum()}

    rows = range(len(buffer.trajectories))
    norm, sums = learner.step(buffer, values, rows, loss_of, lr=1e-2, what="step 1")
    return norm, sums, [p.detach().clone() for p in learner.parameters]


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_budget_and_changes_no_number(
    error: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = max(len(s.ids) for s in mixed_buffer().sequences)
    roomy, tight = learner_with(100_000), learner_with(100_000)
    norm, sums, weights = step(roomy, room=100_000)
    tight_norm, tight_sums, tight_weights = step(tight, room=2 * longest, error=error)
    assert tight.token_budget < 100_000
    assert f"continuing with {tight.token_budget}" in capsys.readouterr().out
    assert tight_norm == pytest.approx(norm, rel=1e-5)
    assert tight_sums == pytest.approx(sums, rel=1e-5)  # what a failed attempt logged does not count
    for a, b in zip(weights, tight_weights, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    before = tight.token_budget
    step(tight, room=2 * longest)
    assert tight.token_budget == before  # remembered: the next step does not try again


def test_a_trajectory_that_does_not_fit_alone_ends_the_run_with_advice() -> None:
    learner = learner_with(100_000)
    before = [p.detach().clone() for p in learner.parameters]
    with pytest.raises(TrainingError, match=r"one trajectory of \d+ tokens can't be split.*gradient_checkpointing"):
        step(learner, room=3)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


class OneOfTwo(Processes):
    """A process whose partner does the same."""

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


@pytest.mark.parametrize("where", ["forward", "backward", "summing"])
def test_a_process_begins_again_alone_only_before_gradients_are_summed(where: str) -> None:
    learner = learner_with(100_000)
    learner.processes = OneOfTwo(0, 2)
    buffer = mixed_buffer()
    values = np.ones(int(buffer.policy_tokens.sum()), dtype=np.float32)
    attempts = []

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def loss_of(batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        attempts.append(batch)
        chosen, _ = learner.module(batch.ids_BT, batch.mask_BT)
        if where == "summing" and not batch.rows:
            chosen.register_hook(out_of_memory)
        elif where != "summing" and len(attempts) == 1:
            out_of_memory() if where == "forward" else chosen.register_hook(out_of_memory)
        return chosen.sum(), {}

    arguments = (buffer, values, range(len(buffer.trajectories)), loss_of)
    if where != "summing":
        learner.step(*arguments, lr=1e-2, what="step 1")
        assert len(attempts) > 1
        attempts.clear()
        learner.token_budget = 100_000
        learner.step(*arguments, lr=1e-2, what="step 2")  # and again, after gradients were summed once
    else:
        with pytest.raises(TrainingError, match=r"whose gradients are being summed, can't be split"):
            learner.step(*arguments, lr=1e-2, what="step 1")


def test_log_probs_that_do_not_fit_are_computed_in_smaller_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    learner, buffer = learner_with(100_000), mixed_buffer()
    longest = max(len(sequence.ids) for sequence in buffer.sequences)

    def compute(room: int, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        if ids_BT.numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return learner.module(ids_BT, mask_BT)[0].detach()

    whole, pieces = (learner.map_policy_tokens(buffer, partial(compute, room)) for room in (100_000, longest))
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    assert "out of memory at" in capsys.readouterr().out
    with pytest.raises(TrainingError, match=r"log-probs and values: out of memory, and one trajectory"):
        learner.map_policy_tokens(buffer, partial(compute, 3))


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        step(learner_with(100_000), room=3, error=RuntimeError("shapes do not match"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


# ---------------------------------------------------------------- another sampler

LOGPROBS = st.lists(st.tuples(st.floats(-9, 0), st.floats(-9, 0), st.floats(-3, 3)), min_size=1, max_size=20)
LEVELS = st.sampled_from(["token", "sequence"])


@given(rows=LOGPROBS, level=LEVELS, cap=st.floats(0.1, 5), dual=st.sampled_from([None, 3.0]))
def test_weighing_the_advantage_is_weighing_the_loss(
    rows: list[Any], level: str, cap: float, dual: float | None
) -> None:
    sampled, trained, advantages = (torch.tensor([column]) for column in zip(*rows, strict=True))
    mask = torch.ones(1, len(rows), dtype=torch.bool)
    weights = importance_weights(trained - sampled, mask, level, cap)
    assert (weights <= np.float32(cap)).all()
    config = LossConfig(dual_clip=dual)
    plain = policy_loss(trained + 0.3, trained, advantages, mask, config).loss_BT
    weighed = policy_loss(trained + 0.3, trained, advantages * weights, mask, config).loss_BT
    torch.testing.assert_close(weighed, plain * weights, atol=1e-5, rtol=1e-5)


@given(rows=st.lists(LOGPROBS, min_size=1, max_size=3), padding=st.integers(0, 3), cap=st.floats(0.5, 5))
def test_importance_weights_are_truncated_quotients_of_probabilities(
    rows: list[list[Any]], padding: int, cap: float
) -> None:
    """Computed in probabilities, token by token, where the code adds and subtracts logarithms of whole rows."""
    length = max(map(len, rows)) + padding
    mask, log_ratio = torch.zeros(len(rows), length, dtype=torch.bool), torch.full((len(rows), length), 3.0)
    tokens, sequences = [], []
    for number, row in enumerate(rows):
        mask[number, : len(row)] = True
        log_ratio[number, : len(row)] = torch.tensor([trained - sampled for sampled, trained, _ in row])
        quotients = [math.exp(trained) / math.exp(sampled) for sampled, trained, _ in row]
        tokens += [min(quotient, cap) for quotient in quotients]
        product = min(max(math.prod(quotients), math.exp(-20)), math.exp(20))
        sequences += [min(product, cap)] * len(row)
    for level, expected in (("token", tokens), ("sequence", sequences)):
        found = importance_weights(log_ratio, mask, level, cap)[mask]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 7), (1, 7), (5, 7), (5, 5), (7, 5), (5, 6)])
def test_every_step_of_a_run_has_a_learning_rate(kind: Any, warmup: int, steps: int) -> None:
    """A rollout whose update has learning rate 0 is wasted; the rate is 0 only after the last step."""
    config = OptimizerConfig(lr=2.0, warmup_steps=warmup, lr_scheduler_type=kind)
    rates = [config.learning_rate(step, steps) for step in range(1, steps + 1)]
    assert min(rates) > 0
    peak = max(warmup, 1)
    assert rates[:peak] == [2.0 * step / peak for step in range(1, min(peak, steps) + 1)]
    decay = rates[peak - 1 :]
    if kind == "constant":
        assert set(decay) <= {2.0}
    else:
        assert all(after < before for before, after in pairwise(decay))
        assert steps < peak or config.learning_rate(steps + 1, steps) == pytest.approx(0)


def test_the_same_log_probs_have_weight_one_and_no_mismatch() -> None:
    values = np.array([-0.5, -3.0], dtype=np.float32)
    for level in ("token", "sequence"):
        nothing, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
        assert importance_weights(nothing, mask, level, 2.0).tolist() == [[1.0, 1.0]]
    assert set(mismatch(values, values).values()) == {0.0}
    apart = mismatch(values, values + np.float32(0.25))
    assert apart == {"mismatch/kl": 0.25, "mismatch/abs_mean": 0.25, "mismatch/abs_max": 0.25}
