"""What a policy is loaded from: quantised weights become full precision, incomplete folders are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save_tiny_policy, tiny_model, tokenizer
from safetensors.torch import load_file, save_file

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from benchmarks.small_architectures import small_model
from igsearch_env.errors import ConfigurationError

IDS = torch.tensor([[5, 9, 12, 40, 7, 8, 22, 31]])
MASK = torch.tensor([[False] + [True] * 7])
LARGEST = 448.0  # of float8_e4m3fn


def configured(folder: Path, **changed: Any) -> None:
    """Change the config.json of a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.fixture
def fp8(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder in fp8, as published models have it, and the weights that it stands for."""
    folder = tmp_path / "fp8"
    save_tiny_policy(folder, architecture="llama")
    stored, meant = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        stored[name] = meant[name] = weight
        if "proj" in name:
            scale = (weight.abs().max() / LARGEST).reshape(1, 1)
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[name.replace(".weight", ".weight_scale_inv")] = scale
            meant[name] = stored[name].float() * scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    configured(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    return folder, meant


def test_fp8_is_trained_and_saved_in_full_precision(
    fp8: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, meant = fp8
    policy = Policy.load(PolicyConfig(path=str(folder), device="cpu"))
    assert "its weights (fp8) are converted to float32 and stay so" in capsys.readouterr().err
    plain = tiny_model("llama")
    plain.load_state_dict(meant, strict=False)
    with torch.no_grad():
        expected = Policy(plain, tokenizer()).token_logprobs(IDS, MASK)[0]
        torch.testing.assert_close(policy.token_logprobs(IDS, MASK)[0], expected)
        for parameter in policy.model.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)  # trained
        trained = policy.token_logprobs(IDS, MASK)[0]
    policy.save(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = Policy.load(PolicyConfig(path=str(tmp_path / "saved"), device="cpu"))
    with torch.no_grad():
        torch.testing.assert_close(again.token_logprobs(IDS, MASK)[0], trained, atol=0, rtol=0)


def test_adapters_on_fp8_stand_on_its_full_precision(fp8: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    folder, _ = fp8
    policy = Policy.load(PolicyConfig(path=str(folder), device="cpu", lora=LoraConfig(rank=2)))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        trained = policy.token_logprobs(IDS, MASK)[0]
    policy.save(tmp_path / "adapter")
    again = Policy.load(PolicyConfig(path=str(tmp_path / "adapter"), device="cpu"))
    with torch.no_grad():
        torch.testing.assert_close(again.token_logprobs(IDS, MASK)[0], trained)


@pytest.mark.parametrize(
    "quantised",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": True},
        {"quant_method": "a method of next year"},
    ],
    ids=lambda quantised: quantised.get("quant_method", "load_in_8bit"),
)
def test_weights_that_can_t_be_converted_are_rejected(quantised: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    configured(folder, quantization_config=quantised)
    method = quantised.get("quant_method", "bitsandbytes")
    with pytest.raises(ConfigurationError, match=rf"model: its weights are quantised \({method}\).*quantised from"):
        Policy.load(PolicyConfig(path=str(folder), device="cpu"))


@pytest.mark.parametrize("what", ["missing", "mismatched"])
def test_weights_that_would_be_random_are_rejected(what: str, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if what == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=rf"1 weights of Qwen2ForCausalLM are {what}, such as {name}"):
        Policy.load(PolicyConfig(path=str(folder), device="cpu"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100, b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_a_damaged_file_is_a_configuration_error(name: str, damage: bytes, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    (folder / name).write_bytes(damage)
    with pytest.raises(ConfigurationError, match=r"policy\.path=.* can't be loaded \(|config\.json: "):
        Policy.load(PolicyConfig(path=str(folder), device="cpu"))


def test_an_adapter_without_some_of_its_weights_is_rejected(tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base")
    policy = Policy.load(PolicyConfig(path=str(base), device="cpu", lora=LoraConfig(rank=2)))
    policy.save(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ConfigurationError, match="missing adapter keys"):
        Policy.load(PolicyConfig(path=str(tmp_path / "adapter"), device="cpu"))


def test_a_model_that_transformers_can_t_read_back_is_rejected(tmp_path: Path) -> None:
    model = small_model("emu3", len(tokenizer()))
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    configured(tmp_path, model_type="emu3", text_config=model.config.to_dict())
    with pytest.raises(ConfigurationError, match=r"Emu3ForCausalLM"):
        Policy.load(PolicyConfig(path=str(tmp_path), device="cpu"))
