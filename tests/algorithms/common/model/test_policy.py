"""A policy's model: kernels, checkpointed gradients, dropout, copies, and what can't be trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import ARCHITECTURES, save_tiny_policy, tiny_model, tiny_policy, tokenizer
from torch.nn.functional import scaled_dot_product_attention
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers import modeling_flash_attention_utils as library

from algorithms.common.memory.footprint import Footprint
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.lora import add_adapter
from algorithms.common.model.packing import own_attention
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.model.verification import verify
from igsearch_env.errors import ConfigurationError

IDS = torch.tensor([[5, 9, 12, 40, 7, 8, 22, 31], [3, 4, 6, 8, 10, 0, 0, 0]])
MASK = torch.tensor([[False] + [True] * 7, [False] + [True] * 4 + [False] * 3])


def gradients(policy: Policy) -> list[torch.Tensor]:
    """Of the sum of some log-probs."""
    PolicyModule(policy)(IDS, MASK)[0].sum().backward()
    return [p.grad for p in policy.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointed_gradients_are_the_same_and_less_is_kept(architecture: str) -> None:
    kept = []
    found = []
    for checkpointing in (False, True):
        policy = Policy(tiny_model(architecture), tokenizer(), gradient_checkpointing=checkpointing)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found.append(gradients(policy))
        kept.append(sum(sizes))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)
    assert kept[1] < kept[0]


def test_checkpointing_leaves_what_is_read_without_a_gradient_alone() -> None:
    plain, policy = tiny_policy(), Policy(tiny_model(), tokenizer(), gradient_checkpointing=True)
    gradients(policy)
    with torch.no_grad():
        torch.testing.assert_close(policy.token_logprobs(IDS, MASK)[0], plain.token_logprobs(IDS, MASK)[0])
    assert not policy.model.training


def test_dropout_is_off_in_the_update_too() -> None:
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_dropout=0.5,
        attention_dropout=0.5,
    )
    policy = Policy(GPTNeoXForCausalLM(config), tokenizer(), gradient_checkpointing=True)
    first, second = (PolicyModule(policy)(IDS, MASK)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("wanted", ["flash_attention_2", "flash_attention_3"])
def test_a_kernel_that_is_not_there_is_replaced_with_a_notice(
    wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the kernel may be there")
    path = str(save_tiny_policy(tmp_path / "model"))
    policy = Policy.load(PolicyConfig(path=path, device="cpu", attn_implementation=wanted))
    assert f"policy.attn_implementation={wanted!r} needs a GPU" in capsys.readouterr().err
    assert policy.model.config._attn_implementation == "packed_sdpa"


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_kernels_agree(kernel: str, tmp_path: Path) -> None:
    path = str(save_tiny_policy(tmp_path / "model"))
    policy = Policy.load(PolicyConfig(path=path, device="cpu", attn_implementation=kernel))
    assert policy.model.config._attn_implementation == f"packed_{kernel}"
    with torch.no_grad():
        expected = tiny_policy().token_logprobs(IDS, MASK)[0]
        torch.testing.assert_close(policy.token_logprobs(IDS, MASK)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wanted", ["flash_attention_2", "flash_attention_3"])
def test_a_kernel_that_is_not_there_is_replaced_by_one_that_the_model_has(wanted: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the kernel may be there")
    config = PolicyConfig(str(save_tiny_policy(tmp_path / "model", architecture="gemma2")), "float32", device="cpu")
    config = replace(config, attn_implementation=wanted)
    assert Footprint(config).count  # printed before the model is loaded
    assert own_attention(Policy.load(config).model) == "eager"  # no sdpa of transformers bends scores


def test_a_kernel_that_the_model_does_not_take_is_an_error(tmp_path: Path) -> None:
    path = str(save_tiny_policy(tmp_path / "model", architecture="gemma2"))
    with pytest.raises(ConfigurationError, match=r"policy\.attn_implementation='sdpa': Gemma2ForCausalLM .*auto uses"):
        Policy.load(PolicyConfig(path=path, device="cpu", attn_implementation="sdpa"))


@pytest.mark.parametrize("compute_dtype", [None, "bfloat16"])
def test_flash_attention_computes_what_sdpa_computes(
    compute_dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flash(q: Any, k: Any, v: Any, causal: bool = True, softmax_scale: float | None = None, **_: Any) -> Any:
        if compute_dtype and {x.dtype for x in (q, k, v)} != {torch.bfloat16}:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    # As transformers leaves it when it has loaded a model with the library, which needs a GPU.
    monkeypatch.setattr(library, "_loaded_implementation", "flash_attention_2")
    for name in ("_flash_fn", "_flash_varlen_fn"):
        monkeypatch.setattr(library, name, flash)
    monkeypatch.setattr(library, "_process_flash_kwargs_fn", library._lazy_define_process_function(flash))
    monkeypatch.setattr(library, "_process_with_kvcache_kwargs_fn", dict)
    plain = tiny_policy()
    model = copy.deepcopy(plain.model)
    model.config._attn_implementation_internal = "flash_attention_2"
    policy = Policy(model, plain.tokenizer.hf_tokenizer, compute_dtype=compute_dtype)
    verify(policy)
    assert own_attention(policy.model) == "flash_attention_2"
    with torch.no_grad():
        expected = plain.token_logprobs(IDS, MASK)[0]
        tolerance = 0.1 if compute_dtype else 1e-5
        torch.testing.assert_close(policy.token_logprobs(IDS, MASK)[0], expected, atol=tolerance, rtol=0)


def test_a_copy_in_bfloat16_is_the_model_loaded_in_bfloat16(tmp_path: Path) -> None:
    path = str(save_tiny_policy(tmp_path / "model"))
    copied = Policy.load(PolicyConfig(path=path, device="cpu")).replica(torch.bfloat16)
    loaded = Policy.load(PolicyConfig(path=path, device="cpu", dtype="bfloat16"))
    for mine, theirs in zip(copied.model.buffers(), loaded.model.buffers(), strict=True):
        assert torch.equal(mine, theirs)  # frequencies of positions in bfloat16 would be off by radians
        assert mine.dtype == theirs.dtype
    with torch.no_grad():
        assert torch.equal(copied.token_logprobs(IDS, MASK)[0], loaded.token_logprobs(IDS, MASK)[0])


def test_a_copy_follows_its_policy_and_is_not_trained() -> None:
    policy = tiny_policy()
    copied = policy.replica(torch.bfloat16)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.125
    assert not any(p.requires_grad for p in copied.model.parameters())
    copied.copy_weights(policy)
    for mine, theirs in zip(copied.model.parameters(), policy.model.parameters(), strict=True):
        assert torch.equal(mine, theirs.bfloat16())


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_that_are_cast_once_compute_what_autocast_does(architecture: str, rank: int) -> None:
    model, adapter = tiny_model(architecture), None
    if rank:
        adapter = add_adapter(model, LoraConfig(rank=rank))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # else an adapter changes nothing at first
    policy = Policy(model, tokenizer(), compute_dtype="bfloat16", adapter=adapter)
    copied = policy.with_cast_weights()

    def difference() -> float:
        with torch.no_grad():
            return float((copied.token_logprobs(IDS, MASK)[0] - policy.token_logprobs(IDS, MASK)[0]).abs().max())

    assert difference() == 0
    if (head := copied.model.get_output_embeddings()) is not None:
        assert head.weight.dtype == torch.bfloat16
    assert copied.model.get_input_embeddings().weight is policy.model.get_input_embeddings().weight
    linear = [layer for layer in copied.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert {weights.dtype for layer in linear for weights in layer.parameters(recurse=False)} == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.03125 * torch.randn_like(parameter)
    assert difference() > 0
    copied.copy_weights(policy)
    assert difference() == 0


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    model = tiny_model()
    model.resize_token_embeddings(len(tokenizer()) - 3)
    with pytest.raises(ConfigurationError, match=r"the tokenizer has \d+ tokens, but the model has embeddings for \d+"):
        verify(Policy(model, tokenizer()))


def test_a_model_that_is_nowhere_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.path='\./nowhere'.*no config\.json"):
        Policy.load(PolicyConfig(path="./nowhere"))


def test_a_name_that_can_t_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"policy\.path='nobody/nothing'.*save_pretrained"):
        Policy.load(PolicyConfig(path="nobody/nothing"))
