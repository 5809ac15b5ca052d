"""Folders of anyone: no setting of theirs loads foreign code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from models import save_tiny_policy

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from igsearch_env.errors import ConfigurationError

KERNEL = "someone/kernels"


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": KERNEL},
        {"_attn_implementation": KERNEL},
        {"_attn_implementation_internal": KERNEL},
        {"attn_implementation": {"": "sdpa", "text_config": KERNEL}},
        {"text_config": {"_attn_implementation": f"{KERNEL}:attention"}},
        {"experts_implementation": KERNEL},
    ],
)
def test_kernels_from_a_repository_are_rejected(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(ConfigurationError, match=r"config\.json: .*_implementation.* would load code"):
        Policy.load(PolicyConfig(path=str(folder), device="cpu"))


def test_implementations_of_transformers_are_not(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_attn_implementation": "eager"}))
    Policy.load(PolicyConfig(path=str(folder), device="cpu"))
