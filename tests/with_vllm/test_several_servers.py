"""Two real servers of a model with an output layer of its own: updates, sticky episodes, and the loss of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from models import tokenizer
from real_vllm import CONTEXT, EXACT, all_of, apart, counter, engine_of, episodes, rollout_server, sampler_of, update
from transformers import LlamaConfig, LlamaForCausalLM

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.engines.base import EngineError, TurnRequest
from algorithms.common.rollout.probe import difference
from benchmarks.vllm_environment import RunningServer
from igsearch_env.errors import ConfigurationError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


def untied_policy() -> Policy:
    """Two layers of random weights, with an output layer that is not the embedding, and heads of a size of vLLM's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
        tie_word_embeddings=False,
    )
    return Policy(LlamaForCausalLM(config), tokenizer())


@pytest.fixture
def policy() -> Policy:
    return untied_policy()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    folder = tmp_path_factory.mktemp("served")
    untied_policy().save(folder)
    with rollout_server(folder) as first, rollout_server(folder) as second:
        yield [first, second]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_ten_updates_arrive_at_both(policy: Policy, servers: list[RunningServer], stack: ExitStack) -> None:
    sampler = sampler_of(policy, stack, *servers)
    engine = engine_of(sampler)

    def differences() -> list[float]:
        return [difference(one, policy, sampler.turn_end).most for one in engine.instances()]

    before = differences()
    old = untied_policy()
    for _ in range(10):
        update(policy, 1, lr=1e-2)
        sampler.sync_weights()
    after = differences()
    print(f"untied, two servers: at most {max(before):.1e} before, {max(after):.1e} after ten updates")
    assert len(after) == 2
    assert max(before + after) < EXACT
    assert difference(engine, old, sampler.turn_end).mean > 0.05  # they matter


def test_all_turns_of_an_episode_are_written_by_one_server(
    policy: Policy, servers: list[RunningServer], stack: ExitStack
) -> None:
    sampler = sampler_of(policy, stack, *servers)
    engine = engine_of(sampler)
    queries, hits = (
        [counter(server, f"prefix_cache_{what}_total") for server in servers] for what in ("queries", "hits")
    )
    prompt = tuple(range(5, 5 + 64))
    for turn in range(3):
        engine.submit([TurnRequest(key, (key + 5,) + prompt + (9,) * 64 * turn, 1, 4, 1.0, key) for key in range(6)])
        all_of(engine)
    for place, server in enumerate(servers):
        assert counter(server, "prefix_cache_queries_total") - queries[place] == 3 * 3 * 65 + 3 * 3 * 64
        found = counter(server, "prefix_cache_hits_total") - hits[place]
        assert found == 3 * (64 + 128)  # the whole blocks of the turns before


def test_a_server_that_is_named_twice_is_refused(
    policy: Policy, servers: list[RunningServer], stack: ExitStack
) -> None:
    with pytest.raises(ConfigurationError, match=rf"names {servers[0].address} twice"):
        sampler_of(policy, stack, servers[0], servers[0])


def test_the_loss_of_a_server_in_a_rollout_is_one_error_that_names_it(  # the last one here
    policy: Policy, servers: list[RunningServer], stack: ExitStack
) -> None:
    sampler = sampler_of(policy, stack, *servers)
    assert apart(policy, episodes(sampler, 2)) < EXACT
    engine = engine_of(sampler)
    engine.submit([TurnRequest(key, tuple(range(5, 69)), key, 900, 1.0, key) for key in range(32)])
    servers[1].kill()
    with pytest.raises(EngineError, match=rf"{servers[1].address}' .* POST /v1/completions .*check that it"):
        all_of(engine)
    assert engine.finished(0) == []
    with pytest.raises(EngineError, match=rf"{servers[1].address}' can't be connected to for POST /collective_rpc"):
        engine.update_weights(policy.model.state_dict().items())
    with pytest.raises(EngineError, match=rf"{servers[1].address}' can't be connected to for GET /health"):
        sampler_of(policy, stack, *servers)
