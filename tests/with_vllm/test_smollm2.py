"""A real language model on a real vLLM: SmolLM2-135M, whose output layer is its embedding."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from real_vllm import CONTEXT, EXACT, apart, episodes, rollout_server, sampler_of, smollm2, update

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.probe import difference

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


def test_ten_updates_of_a_real_model_arrive() -> None:
    folder = smollm2()
    with rollout_server(folder) as server, ExitStack() as stack:
        policy = Policy.load(PolicyConfig(path=str(folder), device="cpu", context_length=CONTEXT))
        sampler = sampler_of(policy, stack, server, max_new_tokens=24)
        assert sampler.engine is not None
        before = difference(sampler.engine, policy, sampler.turn_end).most
        played = apart(policy, episodes(sampler, 1))
        old = policy.float32_replica()
        for updates in (1, 9):
            update(policy, updates, lr=1e-4)
            sampler.sync_weights()
        after = difference(sampler.engine, policy, sampler.turn_end).most
        print(f"SmolLM2: at most {before:.1e} and {played:.1e} in a rollout before, {after:.1e} after ten updates")
        assert max(before, played, after) < EXACT
        assert difference(sampler.engine, old, sampler.turn_end).mean > 0.05  # they matter
