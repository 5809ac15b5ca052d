"""Policies on disk: what is read back is what was trained, whatever names an architecture saves its weights under."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import learner_of, save_tiny_policy, tiny_policy, tokenizer

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.saved import load_saved_weights, verify_saved
from algorithms.common.run.checkpoint import write_policy
from benchmarks.small_architectures import small_model
from igsearch_env.errors import ConfigurationError


def trained(policy: Policy) -> Policy:
    """The policy after a change of every trained weight."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn_like(parameter)
    return policy


# Experts are saved one by one and loaded as one tensor, the others under other names, or tied.
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gemma3", "gpt2", "opt", "phi3"])
def test_weights_survive_saving(kind: str, tmp_path: Path) -> None:
    policy = trained(Policy(small_model(kind, len(tokenizer())), tokenizer()))
    policy.save(tmp_path)
    verify_saved(tmp_path, policy)
    other = Policy(small_model(kind, len(tokenizer())), tokenizer())
    load_saved_weights(tmp_path, other)
    for mine, theirs in zip(other.model.parameters(), policy.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_first_policy_of_a_run_is_read_back(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PolicyConfig(path=str(save_tiny_policy(tmp_path / "start")), device="cpu", lora=LoraConfig(rank=rank))
    policy = trained(Policy.load(config))
    write_policy(tmp_path / "saved", policy, learner_of(policy))
    verify_saved(tmp_path / "saved", policy)
    save = Policy.save

    def rounded(self: Policy, folder: Path, weights: Any = None) -> None:
        exact = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.bfloat16().float())
            save(self, folder, weights)
            for name, parameter in self.model.named_parameters():
                parameter.copy_(exact[name])

    monkeypatch.setattr(Policy, "save", rounded)
    other = trained(Policy.load(config))
    with pytest.raises(ConfigurationError, match=r"is off by .* after saving and reading it back"):
        write_policy(tmp_path / "rounded", other, learner_of(other))


def test_a_folder_that_lacks_a_weight_or_has_another_shape_is_named(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.save(tmp_path)
    state = policy.model.state_dict()
    name = "model.norm.weight"
    with pytest.raises(ConfigurationError, match=rf"{name} is of shape \[32\], not \[33\],"):
        verify_saved(tmp_path, policy, {**state, name: torch.ones(33)})
    with pytest.raises(ConfigurationError, match=r"a\.new\.weight is absent after saving"):
        verify_saved(tmp_path, policy, {**state, "a.new.weight": torch.ones(1)})


@pytest.mark.parametrize("changed", [{"sliding_window": "../x"}, {"model_type": None}, {"hidden_size": [1]}])
def test_a_forged_configuration_is_a_typed_error(changed: dict[str, Any], tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.save(tmp_path)
    path = tmp_path / "config.json"
    settings = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    with pytest.raises((ConfigurationError, RuntimeError)):
        load_saved_weights(tmp_path, policy)
