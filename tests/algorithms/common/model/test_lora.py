"""Adapters: trained alone, saved alone, switched off for the reference, merged for everybody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import save_tiny_policy, tiny_model, tokenizer
from training_runs import question_file, without_times
from transformers import AutoModelForCausalLM

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.lora import merged_weights
from algorithms.common.model.policy import BasePolicy, Policy
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.layout import checkpoints
from algorithms.common.run.run import Run
from algorithms.common.trainer import train
from algorithms.common.training.config import LossConfig, OptimizerConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from igsearch_env.errors import ConfigurationError

IDS = torch.tensor([[5, 9, 12, 40, 7, 8, 22, 31]])
MASK = torch.arange(8)[None] > 0


def adapted(path: str = "bundled", *, rank: int = 4, seed: int = 0, **options: object) -> Policy:
    """A policy whose adapters say something: B is 0 in a new one."""
    policy = Policy.load(PolicyConfig(path=path, device="cpu", lora=LoraConfig(rank=rank, alpha=8), **options))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return policy


def logprobs(policy: Policy | BasePolicy) -> torch.Tensor:
    """Log-probs of some tokens."""
    with torch.no_grad():
        return policy.token_logprobs(IDS, MASK)[0]


def test_a_new_adapter_changes_nothing_and_is_all_that_trains() -> None:
    plain = Policy.load(PolicyConfig(device="cpu"))
    fresh = Policy.load(PolicyConfig(device="cpu", lora=LoraConfig(rank=4)))
    torch.testing.assert_close(logprobs(fresh), logprobs(plain), atol=1e-6, rtol=0)
    trained = {name for name, p in fresh.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)  # all-linear leaves the output layer


def test_the_reference_is_the_policy_without_its_adapter() -> None:
    policy, plain = adapted(), Policy.load(PolicyConfig(device="cpu"))
    before = logprobs(policy)
    assert (before - logprobs(plain)).abs().max() > 0.05
    torch.testing.assert_close(logprobs(BasePolicy(policy)), logprobs(plain), atol=1e-6, rtol=0)
    torch.testing.assert_close(logprobs(policy), before)  # switched on again


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt_neox"])
def test_merged_weights_are_those_of_a_plain_model(architecture: str, tmp_path: Path) -> None:
    policy = adapted(str(save_tiny_policy(tmp_path / architecture, architecture=architecture)))
    plain = tiny_model(architecture, seed=3)
    weights = dict(merged_weights(policy.model))
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not set(missing) - set(plain.all_tied_weights_keys or {})
    torch.testing.assert_close(logprobs(Policy(plain, tokenizer())), logprobs(policy), atol=2e-5, rtol=0)


def test_an_adapter_folder_is_small_and_loads_merged(tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base")
    policy = adapted(str(base))
    policy.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )
    again = Policy.load(PolicyConfig(path=str(tmp_path / "adapter"), device="cpu"))
    assert again.adapter is None
    torch.testing.assert_close(logprobs(again), logprobs(policy), atol=2e-5, rtol=0)
    again.save(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logprobs(Policy(plain, tokenizer())), logprobs(policy), atol=2e-5, rtol=0)


def test_targets_that_name_no_layer_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"target_modules=\['query'\].*Qwen2ForCausalLM.*q_proj.*all-linear"):
        Policy.load(PolicyConfig(device="cpu", lora=LoraConfig(rank=2, target_modules=("query",))))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_proj", "qq_proj"), "'qq_proj' matches no layer"),
        (("embed_tokens", "q_proj"), "'embed_tokens' matches no layer"),
        (("all-linear", "lm_head"), "'all-linear' must stand alone"),
    ],
)
def test_one_target_that_names_no_linear_layer_is_enough_to_refuse(targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Policy.load(PolicyConfig(device="cpu", lora=LoraConfig(rank=2, target_modules=targets)))


def test_an_adapter_whose_base_is_gone_says_so(tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base")
    adapted(str(base)).save(tmp_path / "adapter")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"an adapter of .*base.*can't be loaded.*adapter_config\.json"):
        Policy.load(PolicyConfig(path=str(tmp_path / "adapter"), device="cpu"))


def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path) -> None:
    adapted().save(tmp_path / "adapter")
    with pytest.raises(ConfigurationError, match=r"is already an adapter.*merge it first"):
        adapted(str(tmp_path / "adapter"))


def run_lora(questions: str, run_dir: Path, **changes: object) -> Run:
    """Two steps of IG-GRPO, which moves where every answer fails too, on an adapter."""
    config = IGGRPOConfig(
        **{  # type: ignore[arg-type]
            "steps": 2,
            "eval_every": 0,
            "save_every": 1,
            "run_dir": run_dir,
            "policy": PolicyConfig(device="cpu", lora=LoraConfig(rank=4)),
            "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
            "rollout": RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12),
            "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=0),
            "loss": LossConfig(kl_coef=0.1),
            **changes,
        }
    )
    return train(IGGRPO(config), config)


def test_a_run_trains_the_adapter_alone_and_resumes_with_it(tmp_path: Path) -> None:
    questions = question_file(tmp_path / "questions.jsonl", 6)
    whole = run_lora(questions, tmp_path / "whole")
    plain = dict(Policy.load(PolicyConfig(device="cpu")).model.named_parameters())
    for name, weight in whole.policy.model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, plain[name.replace(".base_layer", "")])
    assert isinstance(whole.reference, BasePolicy)
    rows = [row for row in without_times(tmp_path / "whole") if "reward" in row]
    assert rows[1]["policy/kl_reference"] > 0 == rows[0]["policy/kl_reference"]  # it has moved from the start
    run_lora(questions, tmp_path / "parts", steps=1)
    saved = checkpoints(tmp_path / "parts" / "checkpoints")[0]
    assert (saved / "adapter_model.safetensors").is_file()
    assert not (saved / "model.safetensors").exists()
    run_lora(questions, tmp_path / "parts")
    parts = [row for row in without_times(tmp_path / "parts") if "reward" in row]
    assert parts == rows


def test_a_sampling_copy_follows_what_is_trained(tmp_path: Path) -> None:
    questions = question_file(tmp_path / "questions.jsonl", 6)
    rollout = RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12, dtype="bfloat16")
    run = run_lora(questions, tmp_path / "run", rollout=rollout)
    assert run.sampler.policy.model.dtype == torch.bfloat16
    assert (logprobs(run.sampler.policy).float() - logprobs(run.policy)).abs().max() < 0.1
    rows = [row for row in without_times(tmp_path / "run") if "reward" in row]
    assert all(0 < row["mismatch/abs_mean"] < 0.05 for row in rows)  # measured, since another precision sampled
