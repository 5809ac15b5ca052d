"""The memory plan: sizes from configurations alone, what each setting changes, what is said when it does not fit."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from models import ARCHITECTURES, WINDOWED, save_tiny_policy, tiny_model, turn_end
from rich.console import Console
from transformers import AutoConfig, Gemma3Config, Qwen2Config

from algorithms.common.config import TrainConfig
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.memory.breakdown import CHARACTERS, QUESTION_TOKENS
from algorithms.common.memory.footprint import Footprint, footprint
from algorithms.common.memory.plan import MemoryPlan, plan_memory
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engines import continuous_batching
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.config import LossConfig, OptimizerConfig
from igsearch_env import ConfigurationError
from igsearch_env.protocols import make_protocol

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
QWEN_3B = {
    "hidden_size": 2_048,
    "intermediate_size": 11_008,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "num_hidden_layers": 36,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of Qwen2.5-3B, without weights."""
    folder: Path = tmp_path_factory.mktemp("large")
    Qwen2Config(**QWEN_3B).save_pretrained(folder)
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 80 GiB, 78 of them free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (78 * GIB, 80 * GIB))


def configured(path: Path | str = "bundled", **sections: Any) -> TrainConfig:
    """Sections by name; `policy` holds options of the policy."""
    policy = PolicyConfig(path=str(path), **sections.pop("policy", {}))
    return TrainConfig(policy=policy, env=EnvConfig(max_observation_tokens=500), **sections)


def plan_of(
    config: TrainConfig,
    *,
    reference: bool = False,
    critic: bool = False,
    device: torch.device = CPU,
    processes: int = 1,
) -> MemoryPlan:
    return plan_memory(config, needs_reference=reference, needs_critic=critic, device=device, world_size=processes)


def sizes(plan: MemoryPlan) -> dict[str, int]:
    return {f"{line.name} ({line.phase})": line.bytes for line in plan.lines}


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *WINDOWED])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("compute", [None, "bfloat16"])
def test_what_autograd_keeps_of_a_real_pass(tmp_path: Path, architecture: str, dtype: str, compute: str | None) -> None:
    model = tiny_model(architecture)
    model.config.save_pretrained(tmp_path)
    model.to(getattr(torch, dtype))
    print_of = Footprint(PolicyConfig(path=str(tmp_path), dtype=dtype, compute_dtype=compute))
    assert print_of.count == sum(p.numel() for p in model.parameters())
    assert print_of.weights == sum(p.nbytes for p in model.parameters())
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    ids = torch.randint(0, 1_000, (3, 40))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=compute is not None),
    ):
        model.base_model(input_ids=ids, use_cache=False)
    real = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    # Attention on fake tensors may lay out what it gives otherwise than the kernel: then one copy of it more is kept.
    copies = 2 * 3 * 40 * (2 * print_of.queries + 16) * print_of.element
    assert real <= print_of.kept(3, 40) <= real + copies


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *WINDOWED])
@pytest.mark.parametrize("searches", [0, 1, 3])
def test_keys_and_values_are_what_a_decoder_stores(tmp_path: Path, architecture: str, searches: int) -> None:
    path = save_tiny_policy(tmp_path, architecture=architecture, context_length=320)
    policy = Policy.load(PolicyConfig(path=str(path), device="cpu"))
    rollout = RolloutConfig(questions_per_step=2, group_size=2, max_new_tokens=8)
    config = replace(
        configured(path, rollout=rollout), env=EnvConfig(max_observation_tokens=60, max_searches=max(searches, 1))
    )
    planned = sizes(plan_of(config))["keys and values (rollout)"]
    if not searches:  # a short context is all that there is
        rollout = replace(rollout, kv_cache_tokens=640)
        planned = sizes(plan_of(replace(config, rollout=rollout, env=EnvConfig(max_observation_tokens=500))))[
            "keys and values (rollout)"
        ]
    decoder = Decoder(
        policy,
        turn_end(policy),
        slots=4,
        max_new_tokens=8,
        temperature=0.0,
        kv_cache_tokens=rollout.kv_cache_tokens,
    )
    prompt = QUESTION_TOKENS + len(make_protocol(prompt="bare").template) // CHARACTERS
    slots = [decoder.begin([5] * (prompt if searches else 312)) for _ in range(decoder.free)]
    decoder.prefill()
    for _ in range(searches):  # each turn of its full length, and each observation
        while decoder.writing:
            decoder.decode_step()
        for slot in slots:
            decoder.append_observation(slot, [5] * 60)
        decoder.prefill()
    stored = sum(sum(x.nbytes for x in decoder.store.layer(layer)) for layer in range(2))
    assert planned == stored


def test_an_evaluation_has_more_episodes_than_a_rollout(large: Path) -> None:
    rollout = RolloutConfig(questions_per_step=2, group_size=4)
    config = configured(large, policy={"dtype": "bfloat16", "context_length": 1_024}, rollout=rollout)
    few, many, none = (
        sizes(plan_memory(config, needs_reference=False, needs_critic=False, device=CPU, eval_questions=questions))
        for questions in (8, 64, 0)
    )
    kept = "keys and values (rollout)"
    assert few[kept] == many[kept] == none[kept]
    found = [plan["keys and values (evaluation)"] for plan in (none, few, many)]
    assert found == [0, many[kept], 8 * many[kept]]


def test_the_total_holds_what_the_process_has_taken_already() -> None:
    plan = plan_of(configured())
    assert plan.begun == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    phases = {line.phase for line in plan.lines} - {"always"}
    of = {phase: sum(line.bytes for line in plan.lines if line.phase == phase) for phase in (*phases, "always")}
    assert plan.total == plan.begun + of.pop("always") + max(of.values())
    # It is not available any more, so only the rest has to fit.
    assert replace(plan, available=int(1.2 * (plan.total - plan.begun))).fits()
    assert not replace(plan, available=int(1.05 * (plan.total - plan.begun))).fits()


def test_the_size_of_a_published_model(large: Path) -> None:
    assert footprint(PolicyConfig(path=str(large))).count == 3_085_938_688


def test_nothing_is_allocated(large: Path) -> None:
    Footprint(PolicyConfig())  # what is imported on the first call stays
    before = psutil.Process().memory_info().rss
    assert Footprint(PolicyConfig(path=str(large))).kept(4, 4_096) > 50 * GIB
    assert psutil.Process().memory_info().rss - before < GIB / 4


def test_planning_draws_nothing(large: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Footprint(PolicyConfig(path=str(large), lora=LoraConfig(rank=4))).kept(1, 64)
    assert torch.equal(torch.get_rng_state(), before)


def test_configurations_without_optional_fields(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gpt_neox", num_hidden_layers=2, vocab_size=500)
    assert not hasattr(config, "num_key_value_heads")
    config.save_pretrained(tmp_path)
    found = Footprint(PolicyConfig(path=str(tmp_path)))
    assert found.keys == found.queries == config.hidden_size


def test_a_model_with_a_text_part(tmp_path: Path) -> None:
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 300, "head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    Gemma3Config(text_config=text, vision_config=vision).save_pretrained(tmp_path)
    found = Footprint(PolicyConfig(path=str(tmp_path)))
    assert (found.layers, found.hidden, found.vocabulary) == (2, 64, 300)
    assert found.kept(1, 64) > 0


def test_a_model_that_cannot_be_traced_is_guessed(tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 300}
    AutoConfig.for_model("mixtral", **shape, num_attention_heads=4, num_key_value_heads=2).save_pretrained(tmp_path)
    kept = Footprint(PolicyConfig(path=str(tmp_path))).kept(2, 64)
    assert 2 * 64 * 2 * 64 * 4 < kept < 100 * 2 * 64 * 2 * 64 * 4


def test_an_adapter_folder_has_the_size_of_its_base_model(tmp_path: Path, large: Path) -> None:
    content = {"peft_type": "LORA", "base_model_name_or_path": str(large)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    whole = Footprint(PolicyConfig(path=str(tmp_path)))
    assert whole.weights == whole.trained == footprint(PolicyConfig(path=str(large))).weights


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.path=.*no model found.*save_pretrained"):
        plan_of(configured(tmp_path))


# ---------------------------------------------------------------- what a setting changes


def test_weights_gradients_and_states(large: Path) -> None:
    parameters = footprint(PolicyConfig(path=str(large))).count
    found = sizes(plan_of(configured(large, policy={"dtype": "bfloat16"}), device=CPU))
    assert found["weights (always)"] == 2 * parameters
    assert found["gradients (always)"] == 2 * parameters
    assert found["optimizer states (always)"] == 4 * parameters


@pytest.mark.usefixtures("gpu")
def test_copies(large: Path) -> None:
    parameters = footprint(PolicyConfig(path=str(large))).count
    config = configured(large, policy={"dtype": "bfloat16"}, rollout=RolloutConfig(dtype="float16"))
    found = sizes(plan_of(config, reference=True, critic=True, device=CUDA, processes=4))
    assert found["reference policy (always)"] == 2 * parameters
    assert found["critic (always)"] == 8 * parameters
    assert found["sampling weights (always)"] == 2 * parameters
    assert found["gradient buckets (always)"] == 4 * parameters


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("engine", "copied"), [("builtin", True), ("transformers", True), ("vllm_server", False)])
def test_rollouts_during_updates_take_a_copy_and_their_memory_beside_that_of_the_update(
    large: Path, engine: str, copied: bool
) -> None:
    rollout = RolloutConfig(engine=engine, server_url="" if copied else "http://127.0.0.1:1")
    plans = [plan_of(configured(large, rollout=replace(rollout, max_staleness=most)), device=CUDA) for most in (0, 1)]
    before, after = map(sizes, plans)
    assert "sampling weights (always)" not in before
    assert ("sampling weights (always)" in after) == copied
    if copied:
        assert after["sampling weights (always)"] == before["weights (always)"]
    moved = {name for name in before if name.endswith("(rollout)")}
    assert moved
    assert {name.replace("(rollout)", "(update)") for name in moved} <= after.keys()
    assert not any(name.endswith("(rollout)") for name in after)
    assert plans[1].total - plans[0].total >= sum(before[name] for name in moved)


@pytest.mark.usefixtures("gpu")
def test_whole_weights_are_there_before_they_are_sharded(large: Path) -> None:
    short = {"policy": {"context_length": 1_024}, "rollout": RolloutConfig(kv_cache_tokens=1_024)}
    config = configured(large, **short, distributed=DistributedConfig(sharding="fsdp2"))
    many = sizes(plan_of(config, device=CUDA, processes=64))
    weights = sizes(plan_of(configured(large), device=CUDA))["weights (always)"]
    divided = sum(many[f"{name} (always)"] for name in ("weights", "gradients", "optimizer states"))
    assert many["full weights (loading)"] + divided == pytest.approx(weights, rel=1e-6)


@pytest.mark.usefixtures("gpu")
def test_sharding_divides_what_is_trained(large: Path) -> None:
    config = configured(large, distributed=DistributedConfig(sharding="fsdp2"))
    one = sizes(plan_of(configured(large, policy={"dtype": "bfloat16"}), device=CUDA))
    two = sizes(plan_of(replace(config, policy=replace(config.policy, dtype="bfloat16")), device=CUDA, processes=2))
    for name in ("weights (always)", "gradients (always)", "optimizer states (always)"):
        assert two[name] == one[name] // 2
    assert two["sampling weights (always)"] == one["weights (always)"]  # whole, for rollouts


@pytest.mark.usefixtures("gpu")
def test_adapters(large: Path) -> None:
    lora = {"dtype": "bfloat16", "lora": LoraConfig(rank=16)}
    found = sizes(plan_of(configured(large, policy=lora), reference=True, device=CUDA))
    assert found["gradients (always)"] < 0.05 * found["weights (always)"]
    assert "reference policy (always)" not in found  # it is the policy with its adapter switched off
    # Activations still flow through everything.
    assert (
        found["activations (update)"] > 0.5 * sizes(plan_of(configured(large), device=CUDA))["activations (update)"] / 2
    )


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("compute", [None, "bfloat16"])
def test_checkpointing_keeps_one_layer_at_a_time(large: Path, compute: str | None) -> None:
    options = {"dtype": "bfloat16", "compute_dtype": None} if compute is None else {"compute_dtype": compute}
    budget = OptimizerConfig(token_budget=16_384)
    plain, less = (
        sizes(
            plan_of(configured(large, policy={**options, "gradient_checkpointing": on}, optimizer=budget), device=CUDA)
        )["activations (update)"]
        for on in (False, True)
    )
    assert less < plain / 5
    assert less > 36 * 16_384 * 2_048 * 2  # the input of every layer


@pytest.mark.usefixtures("gpu")
def test_engines(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(**options: Any) -> dict[str, int]:
        config = configured(large, policy={"dtype": "bfloat16"}, rollout=RolloutConfig(**options))
        return sizes(plan_of(config, device=CUDA))

    assert lines(engine="vllm", gpu_memory_utilization=0.3)["vLLM (rollout)"] == int(0.3 * 80 * GIB)
    server = lines(engine="vllm_server", server_url="http://127.0.0.1:1")
    assert not {"vLLM (always)", "keys and values (rollout)"} & set(server)
    paged = lines(engine="transformers", kv_cache_tokens=131_072)["keys and values (rollout)"]
    assert lines(engine="transformers", kv_cache_tokens=65_536)["keys and values (rollout)"] == paged // 2
    # Pages are allocated at once, the rows of the built-in decoder as far as episodes reach.
    assert lines(kv_cache_tokens=131_072)["keys and values (rollout)"] <= paged
    few = lines(kv_cache_tokens=131_072, questions_per_step=2, group_size=4)["keys and values (rollout)"]
    assert few < paged / 4
    # 36.5 GB at the sizes of the configurations for 3B, if flash attention is not installed.
    large_mask = lines(engine="transformers", kv_cache_tokens=524_288, token_budget=32_768)["attention mask (rollout)"]
    assert large_mask == 2 * 32_768 * (524_288 + 32_768)
    monkeypatch.setattr(continuous_batching, "is_flash_attn_2_available", lambda: True)
    assert "attention mask (rollout)" not in lines(engine="transformers")
    assert "attention mask (rollout)" in lines(engine="transformers", dtype="float32")


@pytest.mark.usefixtures("gpu")
def test_a_larger_store_makes_no_larger_passes(large: Path) -> None:
    def passes(kv_cache_tokens: int) -> int:
        rollout = RolloutConfig(questions_per_step=64, group_size=8, kv_cache_tokens=kv_cache_tokens)
        config = configured(large, policy={"dtype": "bfloat16", "context_length": 1_024}, rollout=rollout)
        return sizes(plan_of(config, device=CUDA))["forward passes (rollout)"]

    assert passes(131_072) == passes(262_144)  # decoding reads heads that share keys where they lie


# ---------------------------------------------------------------- what is there


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 80 * GIB))
    plan = plan_of(configured(), device=CUDA)
    assert plan.available == 3 * GIB
    assert plan.fits()
    assert sizes(plan_of(configured())).keys() - sizes(plan).keys() == {
        "heap (update)",  # malloc's, of a CPU
        "tokenizer and modules (always)",  # which take no memory of a GPU
    }


# ---------------------------------------------------------------- what is said


def printed(plan: MemoryPlan) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    plan.render(console)
    return console.export_text()


def test_a_small_run_is_one_line() -> None:
    text = printed(plan_of(configured()))
    assert len(text.splitlines()) == 1
    assert "GiB" in text


@pytest.mark.usefixtures("gpu")
def test_a_large_run_is_a_table_with_its_total(large: Path) -> None:
    plan = plan_of(configured(large, policy={"dtype": "bfloat16", "gradient_checkpointing": True}), device=CUDA)
    assert plan.fits()
    assert plan.advice() == []
    text = printed(plan)
    for line in plan.lines:
        assert line.name in text
    assert f"{plan.total / GIB:.2f} GiB" in text
    assert "may not fit" not in text


@pytest.mark.usefixtures("gpu")
def test_advice_is_concrete_and_true(large: Path) -> None:
    config = configured(large, optimizer=OptimizerConfig(token_budget=16_384), loss=LossConfig(kl_coef=0.001))
    plan = plan_of(config, reference=True, device=CUDA)
    advice = plan.advice()
    assert not plan.fits()
    assert [text.split()[0] for text in advice] == [
        "policy.gradient_checkpointing",
        "optimizer.token_budget",
        "policy.lora.rank",
        "distributed.sharding",
        "loss.kl_coef",
    ]
    saved = [float(text.partition(" saves ")[2].split()[0]) for text in advice]
    assert saved == sorted(saved, reverse=True)
    better = plan_of(
        replace(config, policy=replace(config.policy, gradient_checkpointing=True)), reference=True, device=CUDA
    )
    assert saved[0] == pytest.approx((plan.total - better.total) / GIB, abs=0.01)
    assert all(text in printed(plan) for text in advice)


@pytest.mark.usefixtures("gpu")
def test_a_token_budget_that_is_enough(large: Path) -> None:
    config = configured(large, policy={"dtype": "bfloat16"}, optimizer=OptimizerConfig(token_budget=16_384))
    advice = plan_of(config, device=CUDA).advice()
    (text,) = (text for text in advice if text.startswith("optimizer.token_budget"))
    assert text.endswith("which is enough")
    budget = int(text.split()[1])
    for tokens, fits in ((budget, True), (2 * budget, False)):
        assert plan_of(replace(config, optimizer=OptimizerConfig(token_budget=tokens)), device=CUDA).fits() == fits


@pytest.mark.usefixtures("gpu")
def test_advice_for_vllm_is_a_smaller_share(large: Path) -> None:
    rollout = RolloutConfig(engine="vllm", gpu_memory_utilization=0.95)
    plan = plan_of(configured(large, policy={"dtype": "bfloat16"}, rollout=rollout), device=CUDA)
    assert any(text.startswith("rollout.gpu_memory_utilization 0.") for text in plan.advice())


@pytest.mark.usefixtures("gpu")
def test_advice_leaves_out_what_is_done_already(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(
        large,
        policy={"gradient_checkpointing": True, "lora": LoraConfig(rank=8), "context_length": 4_096},
        optimizer=OptimizerConfig(token_budget=65_536),
        rollout=RolloutConfig(dtype="bfloat16", kv_cache_tokens=2**22, questions_per_step=64, group_size=16),
        distributed=DistributedConfig(sharding="fsdp2"),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GIB, 80 * GIB))
    plan = plan_of(config, device=CUDA, processes=2)
    assert not plan.fits()
    assert {text.split()[0] for text in plan.advice()} <= {"optimizer.token_budget", "rollout.kv_cache_tokens"}


def test_weights_that_do_not_fit_are_refused(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * GIB, 8 * GIB))
    message = r"weights in float32 take 11\.50 GiB, but only 8\.00 GiB are available on cuda"
    with pytest.raises(ConfigurationError, match=message):
        plan_of(configured(large), device=CUDA)
    assert not plan_of(configured(large, policy={"dtype": "bfloat16"}), device=CUDA).fits()  # a warning only
