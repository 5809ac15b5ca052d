"""A real vLLM in bfloat16: it is sent matrices of that width, and holds what it would make of wider ones."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from models import bundled_policy
from real_vllm import BUNDLED, engine_of, rollout_server, sampler_of, turns_of, update
from safetensors.torch import load_file

from algorithms.common.model.lora import merged_weights
from algorithms.common.rollout.engines.base import with_tied_head
from algorithms.common.rollout.probe import HALF, difference

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


def test_narrow_files_give_the_same_server(tmp_path: Path) -> None:
    policy = bundled_policy()
    with rollout_server(BUNDLED, dtype="bfloat16") as server, ExitStack() as stack:
        sampler = sampler_of(policy, stack, server)
        engine = engine_of(sampler)
        assert engine.dtype == "bfloat16"
        update(policy, 3, lr=1e-3)
        sampler.sync_weights()
        found = difference(engine, policy, sampler.turn_end)
        assert 1e-5 < found.mean < HALF.mean
        assert engine._files is not None
        (file,) = engine._files.folder.rglob("*.safetensors")
        written = load_file(file)
        assert {tensor.dtype for tensor in written.values() if tensor.ndim > 1} == {torch.bfloat16}
        assert {tensor.dtype for tensor in written.values() if tensor.ndim == 1} == {torch.float32}
        prompts = [tuple(policy.tokenizer.encode(f"Who wrote work {n}?\n")) for n in range(8)]
        narrow = turns_of(sampler, prompts)
        wide = engine._files.write(with_tied_head(policy.model, merged_weights(policy.model)), None)
        (one,) = engine.servers
        engine._loop.run(one.load_weights(wide, 60.0))
        engine._loop.run(one.drop_cache(60.0))
        again = turns_of(sampler, prompts)  # vLLM rounds wider ones in the same way
        assert [turn.ids for turn in again] == [turn.ids for turn in narrow]
        for mine, theirs in zip(again, narrow, strict=True):  # their neighbours in a pass round the log-probs
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
