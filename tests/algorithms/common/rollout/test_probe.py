"""Weights that an engine was sent: every part arrives, or the run stops and says how far the engine is off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import fake_vllm
import pytest
import torch
from models import bundled_policy
from services import serving
from torch import Tensor

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.lora import merged_weights
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.engines.base import EngineError, with_tied_head
from algorithms.common.rollout.engines.continuous_batching import ContinuousBatchingEngine
from algorithms.common.rollout.probe import difference
from algorithms.common.rollout.sampler import Sampler, samples_from_copy
from igsearch_env.world.bundled import POLICY_FOLDER

MODEL = str(POLICY_FOLDER)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def update(policy: Policy, scale: float = 0.02) -> None:
    """Change every weight."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


def started(stack: ExitStack, policy: Policy, **options: Any) -> Sampler:
    """A sampler whose engine is a server with these options."""
    address = stack.enter_context(serving(fake_vllm.Server(MODEL, **options).app))
    config = RolloutConfig(engine="vllm_server", server_url=address)
    sampler = Sampler(policy, config, ["</search>", "</answer>"], Processes())
    stack.callback(sampler.close)
    sampler.start()
    return sampler


@pytest.mark.parametrize("head", ["tied", "packed"])
def test_every_weight_arrives_also_where_the_server_has_its_own_output_layer(stack: ExitStack, head: str) -> None:
    policy = bundled_policy()
    sampler = started(stack, policy, head=head)
    for _ in range(2):
        update(policy)
        sampler.sync_weights()
    assert sampler.engine is not None
    found = difference(sampler.engine, sampler.policy, sampler.turn_end)
    assert found.tokens >= 32
    assert found.most < 1e-4


def test_an_output_layer_that_stays_stops_the_run(stack: ExitStack) -> None:
    policy = bundled_policy()
    sampler = started(stack, policy, head="kept")
    sampler.sync_weights()  # nothing has changed
    update(policy)
    with pytest.raises(EngineError) as caught:
        sampler.sync_weights()
    message = str(caught.value)
    assert "rollout.engine='vllm_server' at http://127.0.0.1:" in message
    assert "with the weights after update 2 of this process, the log-probs of" in message
    assert "nats on average and" in message
    assert "more than float32 explains (0.005 and 0.05)" in message


def test_another_model_is_noticed_at_the_start(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def ignore(self: Any, *arguments: Any, **options: Any) -> None:
        """A server that says that it has reloaded its weights."""

    monkeypatch.setattr(fake_vllm.Core, "reload_weights", ignore)
    policy = bundled_policy()
    update(policy)  # as a run that resumes
    with pytest.raises(EngineError, match="with the weights at the start, the log-probs of"):
        started(stack, policy)


@pytest.mark.parametrize("precision", ["torch.bfloat16", None])
def test_a_server_in_lower_precision_may_be_further_off(stack: ExitStack, precision: Any) -> None:
    policy = bundled_policy()
    sampler = started(stack, policy, head="kept", dtype=precision)
    update(policy, 0.002)
    sampler.sync_weights()
    assert sampler.engine is not None
    assert difference(sampler.engine, sampler.policy, sampler.turn_end).most > 0.05


def test_an_engine_with_the_policys_own_weights_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    complete = ContinuousBatchingEngine.complete

    def counted(self: ContinuousBatchingEngine, *arguments: Any, **options: Any) -> Any:
        calls.append(len(arguments[0]))
        return complete(self, *arguments, **options)

    monkeypatch.setattr(ContinuousBatchingEngine, "complete", counted)
    policy = bundled_policy()
    config = RolloutConfig(engine="transformers", kv_cache_tokens=8192)
    sampler = Sampler(policy, config, ["</search>", "</answer>"], Processes())
    sampler.start()
    sampler.sync_weights()
    assert len(calls) == 1
    sampler.close()


# ---------------------------------------------------------------- the tied output layer


def names(weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, _ in weights]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_tied_output_layer_is_sent_under_its_own_name(rank: int) -> None:
    policy = Policy.load(PolicyConfig(path=MODEL, device="cpu", lora=LoraConfig(rank=rank)))
    weights = dict(with_tied_head(policy.model, merged_weights(policy.model)))
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert list(weights)[-1] == "lm_head.weight"
    assert len(weights) == len(list(merged_weights(policy.model))) + 1


def test_an_output_layer_of_its_own_is_sent_once() -> None:
    policy = bundled_policy()
    policy.model.config.tie_word_embeddings = False
    head = policy.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(2 * head.weight.detach())
    weights = list(with_tied_head(policy.model, merged_weights(policy.model)))
    assert names(weights).count("lm_head.weight") == 1
    assert torch.equal(dict(weights)["lm_head.weight"], head.weight)


# ---------------------------------------------------------------- what counts as exact


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({}, True),
        ({"dtype": "bfloat16"}, False),
        ({"dtype": "float16"}, False),
        ({"compute_dtype": "bfloat16"}, False),
    ],
)
def test_only_full_precision_is_exact(options: dict[str, Any], exact: bool) -> None:
    policy = Policy.load(PolicyConfig(path=MODEL, device="cpu", **options))
    sampler = Sampler(policy, RolloutConfig(), ["</answer>"], Processes())
    assert sampler.exact is exact


@pytest.mark.parametrize(("engine", "copied"), [("builtin", True), ("transformers", True), ("vllm_server", False)])
def test_weights_that_may_change_while_they_sample_are_copied(engine: str, copied: bool) -> None:
    """An engine with weights of its own has a copy already."""
    policy = bundled_policy()
    config = RolloutConfig(engine=engine, max_staleness=1, server_url="" if copied else "http://127.0.0.1:1")
    sampler = Sampler(policy, config, ["</answer>"], Processes())
    assert (sampler.policy is not policy) == copied == samples_from_copy(config)
    assert sampler.exact is False or not copied
    assert sampler.scorer().policy is policy  # which is current, and not sampling
    if copied:
        assert next(sampler.policy.model.parameters()).data_ptr() != next(policy.model.parameters()).data_ptr()
    assert not samples_from_copy(replace(config, max_staleness=0))


def test_a_copy_keeps_its_weights_until_it_is_given_others() -> None:
    policy = bundled_policy()
    sampler = Sampler(policy, RolloutConfig(max_staleness=1), ["</answer>"], Processes())
    sampler.start(3)
    mine, theirs = (next(p.model.parameters()) for p in (sampler.policy, policy))
    with torch.no_grad():
        theirs.add_(1.0)
    assert not torch.equal(mine, theirs)
    assert sampler.version == 3
    sampler.sync_weights(4)
    assert torch.equal(mine, theirs)
    assert sampler.version == 4
