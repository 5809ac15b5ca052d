"""Warnings about low precision, and the rounding that they warn of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.training.precision import precision_warning


@pytest.mark.parametrize(
    ("policy", "lr", "warned"),
    [
        ({"dtype": "bfloat16"}, 1e-6, True),
        ({"dtype": "bfloat16"}, 1e-3, False),
        ({"dtype": "float32", "compute_dtype": "bfloat16"}, 1e-6, False),
        ({"dtype": "bfloat16", "lora": LoraConfig(rank=16)}, 1e-6, False),
    ],
)
def test_a_warning_of_small_steps_in_bfloat16(policy: dict[str, Any], lr: float, warned: bool) -> None:
    warning = precision_warning(PolicyConfig(**policy), lr)
    assert (warning is not None) == warned
    if warning:
        assert "compute_dtype bfloat16" in warning
        weight = torch.tensor(0.02, dtype=torch.bfloat16)
        assert weight + lr == weight


@pytest.mark.parametrize("policy", [{"compute_dtype": "float16"}, {"dtype": "float16"}])
def test_a_warning_of_gradients_that_vanish_in_float16(policy: dict[str, Any]) -> None:
    assert "the loss is not scaled" in (precision_warning(PolicyConfig(**policy), 1e-6) or "")
    assert torch.tensor(0.02 / 1_000_000).half() == 0  # of one token in a mean over so many
