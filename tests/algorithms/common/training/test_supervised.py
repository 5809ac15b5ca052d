"""`supervised_update`: cross-entropy of the tokens that the policy wrote, and of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from buffers import mixed_buffer
from models import learner_of, tiny_policy

from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.config import WarmStartConfig
from algorithms.common.training.supervised import supervised_update, weighted_cross_entropy
from igsearch_env.errors import ConfigurationError

ROWS = ([0], [1, 2], [0, 1, 2])


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """Of every weight."""
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


def by_transformers(buffer: RolloutBuffer, rows: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of transformers' own loss, on the whole episodes with labels -100 where the policy read."""
    policy = tiny_policy()
    tokens = 0
    total = torch.zeros(())
    for row in rows:
        ids, labels = [], []
        trajectory = buffer.trajectories[row]
        ids += trajectory.prompt_ids
        labels += [-100] * len(trajectory.prompt_ids)
        for turn in trajectory.turns:
            ids += [*turn.completion_ids, *turn.observation_ids]
            labels += [*turn.completion_ids, *[-100] * len(turn.observation_ids)]
        written = sum(label != -100 for label in labels[1:])
        out = policy.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        total = total + out.loss * written
        tokens += written
    (total / tokens).backward()  # type: ignore[no-untyped-call]
    return float(total.detach()) / tokens, gradients(policy)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("token_budget", [1, 64, 4_096])
def test_the_gradient_is_that_of_transformers_whatever_the_micro_batches(rows: list[int], token_budget: int) -> None:
    buffer = mixed_buffer()
    loss, expected = by_transformers(buffer, rows)
    policy = tiny_policy()
    # A norm that is never reached: gradients stay as they are, and weights with a learning rate of 0.
    learner = learner_of(policy, token_budget=token_budget, max_grad_norm=1e9)
    row = supervised_update(learner, buffer, rows, lr=0.0, what="update 1")
    found = gradients(policy)
    assert row["warm_start/loss"] == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert row["warm_start/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    before = tiny_policy().model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())


def test_what_was_read_has_no_loss() -> None:
    buffer = mixed_buffer()
    rows = list(range(len(buffer.trajectories)))
    ones = np.ones(int(buffer.policy_tokens.sum()), dtype=np.float32)
    seen = 0
    for batch in buffer.micro_batches(ones, rows, 4_096, 0):
        _, losses = weighted_cross_entropy(PolicyModule(tiny_policy()), batch.ids_BT, batch.advantages_BT)
        written = [len(turn.completion_ids) for row in batch.rows for turn in buffer.trajectories[row].turns]
        assert len(losses) == sum(written) < batch.ids_BT.numel()
        seen += len(losses)
    assert seen == len(ones)


def test_the_loss_is_weighted_token_by_token() -> None:
    module = PolicyModule(policy := tiny_policy())
    ids_BT = torch.arange(10, 22).reshape(2, 6)
    weights_BT = torch.tensor([[0, 1, 0.5, 0, 0, 2], [0, 0, 0, 0.25, 0, 0]])
    loss, losses = weighted_cross_entropy(module, ids_BT, weights_BT)
    logits_BTV = policy.model(input_ids=ids_BT).logits[:, :-1]
    plain_BT = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none"
    ).view(2, 5)
    torch.testing.assert_close(loss, (plain_BT * weights_BT[:, 1:]).sum())
    torch.testing.assert_close(losses, plain_BT[weights_BT[:, 1:] != 0].detach())


def test_updates_lower_the_loss() -> None:
    buffer = mixed_buffer()
    learner = learner_of(tiny_policy())
    rows = list(range(len(buffer.trajectories)))
    losses = [supervised_update(learner, buffer, rows, lr=1e-2, what="x")["warm_start/loss"] for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("demonstrations", "questions", "samples", "epochs", "batch_size", "save_every")),
        *(("titles", 1.1), ("vague", -0.1), ("rounds", -1), ("temperature", 0.0), ("lr", -1.0)),
    ],
)
def test_a_wrong_setting_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"warm_start\.{name}={value}"):
        WarmStartConfig(**{name: value})
