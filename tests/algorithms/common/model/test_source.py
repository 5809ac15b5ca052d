"""Models from GGUF files: dequantised, with their tokenizer and chat template, trained and saved like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from gguf_files import tiny_llama, write_gguf

from algorithms.common.memory.footprint import Footprint
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.source import ModelSource
from igsearch_env.errors import ConfigurationError

IDS = torch.tensor([[5, 9, 12, 40, 7, 8, 22, 31]])
MASK = torch.tensor([[False] + [True] * 7])


def load(path: Path, **options: object) -> Policy:
    """The policy of a path, on the CPU."""
    return Policy.load(PolicyConfig(path=str(path), device="cpu", **options))  # type: ignore[arg-type]


@torch.no_grad()
def logprobs(policy: Policy) -> torch.Tensor:
    """Log-probs of some tokens."""
    return policy.token_logprobs(IDS, MASK)[0]


@pytest.mark.parametrize("packed", [False, True])
def test_a_gguf_file_is_the_model_that_it_holds(packed: bool, tmp_path: Path) -> None:
    model = tiny_llama()
    policy = load(write_gguf(tmp_path / "tiny.gguf", model, packed=packed), chat=True)
    expected = Policy(model, policy.tokenizer.hf_tokenizer)
    torch.testing.assert_close(logprobs(policy), logprobs(expected))
    assert policy.model.dtype == torch.float32
    assert policy.tokenizer.eos_ids == {2}
    assert policy.context_length == 256
    assert "<|im_start|>" in policy.tokenizer.hf_tokenizer.chat_template


def test_it_is_saved_as_an_ordinary_folder(tmp_path: Path) -> None:
    policy = load(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), packed=True))
    policy.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    torch.testing.assert_close(logprobs(again), logprobs(policy), atol=0, rtol=0)
    assert not list((tmp_path / "saved").glob("*.gguf"))


def test_adapters_name_the_file_as_their_base(tmp_path: Path) -> None:
    policy = load(write_gguf(tmp_path / "tiny.gguf", tiny_llama()), lora=LoraConfig(rank=2))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    policy.save(tmp_path / "adapter")
    torch.testing.assert_close(logprobs(load(tmp_path / "adapter")), logprobs(policy))


def test_the_memory_plan_reads_its_sizes(tmp_path: Path) -> None:
    model = tiny_llama()
    path = write_gguf(tmp_path / "tiny.gguf", model)
    found = Footprint(PolicyConfig(path=str(path), device="cpu"))
    assert (found.count, found.context) == (sum(p.numel() for p in model.parameters()), 256)


def test_a_file_on_the_hub_is_named_by_repository_and_file() -> None:
    pytest.importorskip("gguf", reason="GGUF files are read by the package gguf: pip install gguf")
    found = ModelSource.parse("hf:bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q8_0.gguf")
    assert found.place == "bartowski/SmolLM2-135M-Instruct-GGUF"
    assert found.options["gguf_file"] == "SmolLM2-135M-Instruct-Q8_0.gguf"
    with pytest.raises(ConfigurationError, match=r"give hf:OWNER/REPOSITORY/FILE\.gguf"):
        ModelSource.parse("hf:model.gguf")


def test_a_file_that_can_t_be_used_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    content = whole.read_bytes()
    cases = {
        "absent.gguf": (None, "there is no such file; one on the hub is hf:"),
        "text.gguf": (b"not one", "not a GGUF file"),
        "empty.gguf": (b"", "not a GGUF file"),
        "header.gguf": (content[:200], "can't be loaded"),
        "cut.gguf": (content[: len(content) // 2], "can't be loaded"),
    }
    for name, (written, message) in cases.items():
        path = tmp_path / name
        if written is not None:
            path.write_bytes(written)
        with pytest.raises(ConfigurationError, match=message):
            load(path)
    unknown = write_gguf(tmp_path / "unknown.gguf", tiny_llama(), architecture="of-next-year")
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        load(unknown)


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'igsearch\[gguf\]'"):
        ModelSource.parse(str(tmp_path / "tiny.gguf"))
