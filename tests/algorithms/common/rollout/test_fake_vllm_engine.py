"""`fake_vllm.py` is like vLLM: its signatures and its behaviour are compared with a recording of the real one.

`tests/with_vllm/test_colocated.py` compares the recording with the vLLM that is installed.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import fake_vllm
import pytest
import torch
from paths import TESTS
from vllm_behaviour import behaviour, signatures

from igsearch_env.world.bundled import POLICY_FOLDER

RECORDED: dict[str, Any] = json.loads((TESTS / "golden/vllm/engine.json").read_text())
CLASSES = {
    "LLM": fake_vllm.LLM,
    "LLMEngine": fake_vllm.LLMEngine,
    "EngineCore": fake_vllm.EngineCore,
    "Worker": fake_vllm.Core,
    "Platform": fake_vllm.Platform,
}


def test_calls_take_what_those_of_vllm_take() -> None:
    for name, calls in signatures(CLASSES).items():
        for call, parameters in calls.items():
            unknown = set(parameters) - set(RECORDED["signatures"][name][call])
            assert not unknown, f"{name}.{call}"
    assert set(RECORDED["engine arguments"]) >= fake_vllm.ENGINE_ARGS


def test_sampling_options_have_the_defaults_of_vllm() -> None:
    defaults = {f.name: getattr(fake_vllm.SamplingParams(), f.name) for f in fields(fake_vllm.SamplingParams)}
    defaults["output_kind"] = defaults["output_kind"].name
    assert defaults == {name: RECORDED["sampling"][name] for name in defaults}
    assert {kind.name: kind.value for kind in fake_vllm.RequestOutputKind} == RECORDED["output kinds"]


@pytest.mark.parametrize("output", [fake_vllm.CompletionOutput, fake_vllm.RequestOutput])
def test_outputs_have_the_fields_of_vllm(output: Any) -> None:
    assert {field.name for field in fields(output)} <= set(RECORDED["outputs"][output.__name__])


def test_requests_go_as_in_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    found, expected = behaviour(str(POLICY_FOLDER), RECORDED["prompts"]), RECORDED["behaviour"]
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if name.startswith("turns"):
            assert [turn | {"log-probs": None} for turn in value] == [t | {"log-probs": None} for t in expected[name]]
            for turn, real in zip(value, expected[name], strict=True):
                assert turn["log-probs"] == pytest.approx(real["log-probs"], abs=1e-4)
        else:
            assert value == expected[name], name
