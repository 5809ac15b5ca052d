"""The sizes of the measurements on a GPU, and tiny ones that run on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from algorithms.common.model.policy import Policy
from benchmarks.machine_rates import machine_rates
from benchmarks.policies import random_policy
from benchmarks.step_costs import ModelShape, Rates

Figures = dict[str, Any]
Report = Callable[[Figures], None]


@dataclass(frozen=True)
class Sizes:
    """Of all parts."""

    device: str = "cuda"
    shape: str = "qwen2.5-3b"
    layers: int = 36
    vocabulary: int = 151_936
    precision: torch.dtype = torch.bfloat16
    slots: tuple[int, ...] = (40, 73, 160)
    prompt: tuple[int, int] = (600, 1_400)
    """Shortest and longest context when decoding begins."""
    steps: int = 24
    """Decoding steps."""
    context: int = 2_000
    """Tokens before the last search, of information gain."""
    evidence: int = 450
    trajectories: int = 8
    rows: tuple[int, int, int] = (8, 2_030, 470)
    """Of an update: trajectories, their tokens, and those that the policy wrote."""
    turn: int = 32
    """Tokens of a turn of the whole step."""
    questions: int = 8
    searches: int = 3

    def policy(self, layers: int | None = None, dtype: torch.dtype | None = None, **options: Any) -> Policy:
        """A policy with random weights of the shape; `options` of `Policy`."""
        made = random_policy(
            self.shape,
            layers or self.layers,
            vocabulary=self.vocabulary,
            device=self.device,
            dtype=dtype or self.precision,
        )
        return Policy(made.model, made.tokenizer.hf_tokenizer, **options) if options else made

    def rates(self, policy: Policy) -> Rates:
        """Measured rates of the device for the shape of a policy."""
        return machine_rates(ModelShape.of(policy.model.config), self.device, self.precision)


TINY = Sizes(
    device="cpu",
    shape="small",
    layers=2,
    vocabulary=1_225,
    precision=torch.float32,
    slots=(2, 3),
    prompt=(20, 40),
    steps=3,
    context=200,
    evidence=30,
    trajectories=1,
    rows=(2, 40, 10),
    turn=4,
    questions=2,
    searches=1,
)
