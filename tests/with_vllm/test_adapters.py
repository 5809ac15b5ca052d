"""LoRA adapters on a real vLLM: sent as adapters, applied in all layers, and never mixed with those before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from real_vllm import (
    BUNDLED,
    EXACT,
    LORA,
    apart,
    counter,
    engine_of,
    episodes,
    rollout_server,
    sampler_of,
    turns_of,
    update,
)
from vllm_exchanges import NAME, compare_with_recording, random_adapter

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.engines.base import EngineError
from algorithms.common.rollout.probe import check_adapter, check_weights, difference
from benchmarks.vllm_environment import RunningServer
from igsearch_env.errors import ConfigurationError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
RANK = 8


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    options = ("--enable-lora", "--max-lora-rank", str(RANK), "--served-model-name", NAME)
    with rollout_server(BUNDLED, *options, variables=LORA) as running:
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def adapted(rank: int = RANK, *targets: str) -> Policy:
    lora = LoraConfig(rank=rank, alpha=16.0, target_modules=targets or ("all-linear",))
    return Policy.load(PolicyConfig(device="cpu", lora=lora))


def served(server: RunningServer) -> list[str]:
    return [card["id"] for card in httpx.get(f"{server.address}/v1/models", timeout=60).json()["data"]]


def test_it_answers_as_recorded(server: RunningServer, tmp_path: Path) -> None:
    compare_with_recording("adapters", server.address, {"MODEL": BUNDLED, "ADAPTER": random_adapter(tmp_path)})


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")], ids=["all", "some"])
def test_ten_updates_of_an_adapter_arrive(server: RunningServer, stack: ExitStack, targets: tuple[str, ...]) -> None:
    policy = adapted(RANK, *targets)
    sampler = sampler_of(policy, stack, server)
    engine = engine_of(sampler)
    assert engine.takes_adapters
    before = difference(engine, policy, sampler.turn_end)
    for _ in range(10):
        update(policy, 1, lr=1e-2)
        sampler.sync_weights()
    after = difference(engine, policy, sampler.turn_end)
    print(f"adapter, {targets}: at most {before.most:.1e} before, {after.most:.1e} after ten updates")
    assert max(before.most, after.most) < EXACT
    assert difference(engine, adapted(), sampler.turn_end).mean > 0.05  # they matter
    assert apart(policy, episodes(sampler, 3)) < EXACT
    assert served(server) == [NAME, engine.weights_name]  # the nine before are gone
    assert engine._files is not None
    kept = sorted(folder.name for folder in engine._files.folder.iterdir())
    assert kept == ["000011", "000012"]  # a random one, that of the start, and ten updates


def test_every_layer_of_a_random_adapter_is_applied(server: RunningServer, stack: ExitStack) -> None:
    policy = adapted()
    sampler = sampler_of(policy, stack, server)
    assert sampler.engine is not None
    assert check_adapter(sampler.engine, policy, sampler.turn_end).most < EXACT
    with pytest.raises(EngineError, match="does not sample from the policy"):  # the random one is still there
        check_weights(sampler.engine, policy, sampler.turn_end, 1)


def test_the_cache_of_an_old_adapter_is_not_read(server: RunningServer, stack: ExitStack) -> None:
    policy = adapted()
    sampler = sampler_of(policy, stack, server)
    prompt = (tuple(policy.tokenizer.encode("Where was Zose Drartov born?\n")) * 60)[:320]
    turns_of(sampler, [prompt])
    hits = counter(server, "prefix_cache_hits_total")
    turns_of(sampler, [prompt])
    assert counter(server, "prefix_cache_hits_total") >= hits + 288
    update(policy, 1, lr=1e-2)
    sampler.sync_weights()
    hits = counter(server, "prefix_cache_hits_total")
    turns_of(sampler, [prompt])
    assert counter(server, "prefix_cache_hits_total") == hits


def test_all_weights_are_sent_where_a_policy_has_no_adapter(server: RunningServer, stack: ExitStack) -> None:
    policy = Policy.load(PolicyConfig(device="cpu"))
    sampler = sampler_of(policy, stack, server)
    engine = engine_of(sampler)
    assert not engine.takes_adapters
    update(policy, 2, lr=1e-3)
    sampler.sync_weights()
    assert difference(engine, policy, sampler.turn_end).most < EXACT
    engine.update_weights(Policy.load(PolicyConfig(device="cpu")).model.state_dict().items())  # as it was


def test_an_adapter_that_does_not_fit_is_refused(server: RunningServer, stack: ExitStack) -> None:
    with pytest.raises(
        ConfigurationError, match=r"rank 8, but policy.lora.rank is 12; start it with --max-lora-rank 16"
    ):
        sampler_of(adapted(12), stack, server)


def test_an_adapter_that_it_cannot_read_is_an_error(server: RunningServer, stack: ExitStack) -> None:
    sampler = sampler_of(adapted(), stack, server)
    engine = engine_of(sampler)
    (one,) = engine.servers
    with pytest.raises(EngineError, match=r"/v1/load_lora_adapter with status 404.*can read /elsewhere/adapter"):
        engine._loop.run(one.load_adapter("another", Path("/elsewhere/adapter"), 60.0))
