"""One step of TRL's trainer on a buffer has the gradient of this project's own update on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import learner_of
from transformers import TrainerCallback
from trl_trainers import WARNINGS, arguments

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.config import LossConfig
from algorithms.common.training.policy_update import policy_update
from algorithms.comparison.registry import ALGORITHMS
from integrations.trl.dataset import question_dataset
from integrations.trl.rollouts import Rollout
from integrations.trl.trainer import IGSearchTrainer

pytestmark = WARNINGS
TOLERANCE = 1e-5


class Recorder(TrainerCallback):  # type: ignore[misc] # transformers has no types here
    """Keeps the gradient of every optimizer step, and the weights before it."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        """Called by the trainer after the backward passes."""
        self.gradients.append(gradient_of(model))
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})


def gradient_of(model: Any) -> torch.Tensor:
    """All gradients in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()


def trained(folder: Path, algorithm: str, **options: Any) -> tuple[IGSearchTrainer, Recorder, Rollout]:
    """A trainer after its steps on one buffer, with their gradients, and the buffer."""
    recorder = Recorder()
    trainer = IGSearchTrainer(
        "bundled", arguments(folder, **options), question_dataset(), algorithm=algorithm, callbacks=[recorder]
    )
    played: list[Rollout] = []
    collect = trainer.rollouts.collect

    def recorded(*args: Any, **kwargs: Any) -> Rollout:
        played.append(collect(*args, **kwargs))
        return played[-1]

    trainer.rollouts.collect = recorded
    trainer.train()
    (rollout,) = played
    return trainer, recorder, rollout


def own_gradient(trainer: IGSearchTrainer, rollout: Rollout, loss: LossConfig, **options: Any) -> torch.Tensor:
    """The gradient of this project's update."""
    policy = trainer.rollouts.policy
    learner = learner_of(policy, max_grad_norm=1e9)
    settings = {"reference": None, "temperature": 1.0, "lr": 0.0, "step": 1, "seed": 0, **options}
    policy_update(learner, buffer=rollout.buffer, advantages=rollout.advantages, loss=loss, **settings)
    return gradient_of(policy.model)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference of two gradients; that of a gradient of 0 would say nothing."""
    assert float(expected.norm()) > 1e-4
    return float((found - expected).norm() / expected.norm())


OF_TRL = [n for n, e in ALGORITHMS.items() if e.algorithm.critic is None and e.config.loss == LossConfig()]


@pytest.mark.parametrize("algorithm", OF_TRL)
def test_the_gradient_is_that_of_our_own_update(algorithm: str, tmp_path: Path) -> None:
    options = {"max_completion_length": 480} if algorithm == "mr_search" else {}
    trainer, recorder, rollout = trained(tmp_path, algorithm, **options)
    assert difference(recorder.gradients[0], own_gradient(trainer, rollout, LossConfig(), on_policy=True)) < TOLERANCE


LOSSES = [
    ("dapo", LossConfig()),
    ("grpo", LossConfig(aggregation="seq-mean-token-mean")),
    ("dr_grpo", LossConfig(aggregation="seq-mean-token-sum-norm", horizon=256)),
    ("luspo", LossConfig(aggregation="seq-mean-token-sum")),
]


@pytest.mark.parametrize(("loss_type", "loss"), LOSSES, ids=[name for name, _ in LOSSES])
def test_aggregations_have_these_names_in_trl(loss_type: str, loss: LossConfig, tmp_path: Path) -> None:
    trainer, recorder, rollout = trained(tmp_path, "ig_grpo", loss_type=loss_type)
    assert difference(recorder.gradients[0], own_gradient(trainer, rollout, loss, on_policy=True)) < TOLERANCE
    others = [other for name, other in LOSSES if name != loss_type]
    for other in others:
        assert (
            difference(recorder.gradients[0], own_gradient(trainer, rollout, other, on_policy=True)) > 100 * TOLERANCE
        )


SECOND_STEPS: list[tuple[str, dict[str, Any], LossConfig, list[dict[str, Any]]]] = [
    (
        "clip",
        {"learning_rate": 1e-3, "epsilon": 0.1, "epsilon_high": 0.15, "delta": 1.2},
        LossConfig(clip_ratio_low=0.1, clip_ratio_high=0.15, dual_clip=1.2),
        [{"clip_ratio_low": 0.4}, {"clip_ratio_high": 0.4}, {"dual_clip": None}],
    ),
    (
        "kl",
        {"learning_rate": 2e-5, "beta": 0.5, "use_bias_correction_kl": False},
        LossConfig(kl_coef=0.5),
        [{"kl_coef": 0.4}, {"kl_estimator": "k2"}],
    ),
]


@pytest.mark.parametrize(("name", "options", "loss", "others"), SECOND_STEPS, ids=[case[0] for case in SECOND_STEPS])
def test_options_of_the_loss_have_these_names_in_trl(
    name: str, options: dict[str, Any], loss: LossConfig, others: list[dict[str, Any]], tmp_path: Path
) -> None:
    # The second optimizer step on a buffer: its ratios are no longer 1.
    trainer, recorder, rollout = trained(tmp_path, "reinforce_plus_plus", num_iterations=2, max_steps=2, **options)
    policy = trainer.rollouts.policy
    policy.model.load_state_dict(recorder.weights[0])
    reference = policy.replica(torch.float32)
    policy.model.load_state_dict(recorder.weights[1])

    def compared(loss: LossConfig) -> float:
        return difference(recorder.gradients[1], own_gradient(trainer, rollout, loss, reference=reference))

    # Rounding of the old and the reference log-probs, in passes of other shapes, is amplified by the exponentials.
    assert compared(loss) < 20 * TOLERANCE
    for other in others:
        assert compared(replace(loss, **other)) > 50 * TOLERANCE, other


def test_credit_of_single_tokens_reaches_the_gradient(tmp_path: Path) -> None:
    trainer, recorder, rollout = trained(tmp_path, "ig_grpo")
    means = [np.mean(rollout.advantages[start : start + n]) for start, n in places(rollout.buffer)]
    flat = replace(rollout, advantages=rollout.buffer.broadcast(means))
    assert difference(recorder.gradients[0], own_gradient(trainer, flat, LossConfig(), on_policy=True)) > 0.05


def places(buffer: RolloutBuffer) -> list[tuple[int, int]]:
    """First token and number of tokens of each trajectory."""
    return list(zip(buffer.first_token.tolist(), buffer.policy_tokens.tolist(), strict=True))
