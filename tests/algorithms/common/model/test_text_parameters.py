"""Parameters that no text reaches: frozen, without adapters, and no obstacle to DDP."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_model, tokenizer
from torch.nn.parallel import DistributedDataParallel

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.model.text_parameters import freeze_parameters_without_text
from benchmarks.small_architectures import small_model

IDS = torch.tensor([[5, 9, 12, 40, 7, 8, 22, 31]])
MASK = torch.tensor([[False] + [True] * 7])


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model that also reads images."""
    folder = tmp_path_factory.mktemp("multimodal")
    small_model("gemma3", len(tokenizer())).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_the_vision_tower_is_frozen_with_a_notice(multimodal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = Policy.load(PolicyConfig(path=str(multimodal), device="cpu"))
    assert re.search(r"policy: \d+ parameters that text does not reach stay as they are", capsys.readouterr().err)
    frozen = {name for name, p in policy.model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in policy.model.named_parameters() if re.search("vision|projector", name)}
    PolicyModule(policy)(IDS, MASK)[0].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in policy.model.parameters())


def test_adapters_are_added_where_text_passes(multimodal: Path) -> None:
    config = PolicyConfig(path=str(multimodal), device="cpu", lora=LoraConfig(rank=2))
    policy = Policy.load(config)
    adapted = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert adapted
    assert all("lora_" in name and "vision" not in name for name in adapted)


def test_ddp_finds_every_parameter_used(multimodal: Path, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        policy = Policy.load(PolicyConfig(path=str(multimodal), device="cpu"))
        module = DistributedDataParallel(PolicyModule(policy))
        for _ in range(2):  # the second pass raises if a parameter was not used in the first
            module(IDS, MASK)[0].sum().backward()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox", "gemma2"])
def test_nothing_of_a_text_model_is_frozen(kind: str) -> None:
    model: Any = tiny_model(kind)
    assert freeze_parameters_without_text(model) == []
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_experts_that_a_text_does_not_choose_stay_trainable() -> None:
    model = small_model("qwen2_moe", len(tokenizer()))
    assert freeze_parameters_without_text(model) == []
