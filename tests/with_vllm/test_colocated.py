"""`rollout.engine=vllm` with a real vLLM, in one process and in two; the scripts run in its environment.

vLLM has no sleep mode on a CPU: there, only the order of the calls is tested.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT, TESTS
from training_runs import question_file
from vllm_interpreter import result_of, run_in_vllm

from algorithms.common.run.metrics_log import read_metrics
from igsearch_env.world.bundled import POLICY_FOLDER

pytestmark = pytest.mark.vllm

EXACT = 1e-4  # nats by which the log-probs of sampler and trainer may differ in float32
RUN = ("--steps", "2", "--rollout.questions-per-step", "4", "--rollout.group-size", "4", "--eval-every", "0")
ENGINE = ("--rollout.engine", "vllm", "--rollout.gpu-memory-utilization", "0.3", "--policy.device", "cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `colocated_engine.py` has found."""
    return result_of("colocated_engine.py", tmp_path_factory.mktemp("engine"))


def test_episodes_are_those_of_the_policy(found: Any) -> None:
    rollouts = found["rollouts"]
    assert rollouts["log-probs"] < EXACT
    assert rollouts["turns that end as they should"] == 1
    assert rollouts["searches"] >= 6
    assert rollouts["answers"] >= 4
    assert rollouts["same again"]
    assert rollouts["same in a wider batch"]
    assert rollouts["siblings differ"] >= 2


def test_requests_are_served_as_they_come(found: Any) -> None:
    streaming = found["streaming"]
    assert streaming["order"] == [[1], [2], [0], []]
    assert streaming["after a cancel"] == [0, True]
    assert "failed to take a request: VLLMValidationError: The decoder prompt (length 2000)" in streaming["too long"]
    assert "failed to decode: RuntimeError: a step failed" in streaming["broken"]
    assert not streaming["in flight after it"]
    assert streaming["and then"] == [0]


def test_the_prefix_cache_is_that_of_the_new_weights(found: Any) -> None:
    first, again = found["prefix cache"]["cached after the update"]
    assert first == 0
    assert again > 500
    assert found["prefix cache"]["log-probs"] < EXACT


def test_it_sleeps_between_a_rollout_and_new_weights(found: Any) -> None:
    sleeping = found["sleeping"]
    assert sleeping["asleep"]
    assert "sleeps, without weights; call update_weights" in sleeping["refuses"]
    assert sleeping["awake"]
    assert sleeping["apart"] < EXACT


@pytest.mark.parametrize("weights", ["tied", "untied", "adapter"])
def test_it_samples_from_the_policy_after_every_update(found: Any, weights: str) -> None:
    assert max(found[weights]) < EXACT


def test_float32_weights_are_cast_for_an_engine_in_bfloat16(found: Any) -> None:
    assert len(found["bfloat16"]) == 11  # else a transfer would have failed
    assert max(found["bfloat16"]) < 2


@pytest.mark.parametrize(("processes", "sharding"), [(1, "none"), (2, "none"), (2, "fsdp2")])
def test_a_run_trains_with_a_vllm_in_every_process(processes: int, sharding: str, tmp_path: Path) -> None:
    questions = question_file(tmp_path / "questions.jsonl", 8)
    files = ("--run-dir", str(tmp_path / "run"), "--env.questions", questions, "--env.eval-questions", questions)
    script = str(ROOT / "algorithms/ig_grpo.py")
    output = run_in_vllm(
        "program.py", tmp_path, script, *RUN, *ENGINE, *files, "--distributed.sharding", sharding, processes=processes
    )
    assert "Traceback" not in output
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert sum("test/em" in row for row in rows) == 2
    apart = [row["mismatch/abs_mean"] for row in rows if "mismatch/abs_mean" in row]
    assert len(apart) == 2
    assert max(apart) < EXACT / 10


def test_the_recording_that_the_fake_is_compared_with_is_of_this_vllm(tmp_path: Path) -> None:
    found = result_of("record_behaviour.py", tmp_path, os.fspath(POLICY_FOLDER))
    recorded = json.loads((TESTS / "golden/vllm/engine.json").read_text())
    for turns in (found, recorded):
        for turn in turns["behaviour"]["turns to the end of a tag"]:
            turn["log-probs"] = [round(x, 3) + 0.0 for x in turn["log-probs"]]
    assert found == recorded, "record again: tests/with_vllm/record_behaviour.py"
