"""vLLM in the processes of a run: requests are served as they come, and it sleeps during updates.

vLLM is a fake here (`fake_vllm.py`); `tests/with_vllm` has the same with the real one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import fake_vllm
import pytest
import torch
from models import bundled_policy, turn_end

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.config import EngineSettings, RolloutConfig
from algorithms.common.rollout.engines import vllm_local
from algorithms.common.rollout.engines.base import EngineError, GenerationSizes, TurnRequest
from algorithms.common.rollout.engines.vllm_local import VllmEngine
from algorithms.common.rollout.probe import difference
from algorithms.common.rollout.sampler import Sampler
from igsearch_env.errors import ConfigurationError

SETTINGS = EngineSettings("float32", 8_192, 4_096, "", 0.4)
PROMPT = "Where was Zose Drartov born?\n"
BIG = 10**12  # bytes of a device


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM in process sets for good is restored when a test ends."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return bundled_policy()


@pytest.fixture
def engine(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmEngine]:
    """An engine on a CPU."""
    fake_vllm.install(monkeypatch)
    made = VllmEngine(policy, turn_end(policy), SETTINGS)
    yield made
    made.close()


@pytest.fixture
def gpu_engine(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmEngine]:
    """An engine of a vLLM that has a GPU."""
    fake_vllm.install(monkeypatch, gpu=True)
    made = VllmEngine(policy, turn_end(policy), SETTINGS)
    yield made
    made.close()


def requests(policy: Policy, lengths: Sequence[int]) -> list[TurnRequest]:
    """Requests whose turns have at most these lengths."""
    prompt = policy.tokenizer.encode(PROMPT)
    return [TurnRequest(10 + n, prompt, n, length, 1.0, episode=n) for n, length in enumerate(lengths)]


# ---------------------------------------------------------------- requests


def test_turns_are_returned_as_they_finish(engine: VllmEngine, policy: Policy) -> None:
    engine.submit(requests(policy, [3, 1, 2]))
    assert [[key for key, _ in engine.finished()] for _ in range(3)] == [[11], [12], [10]]
    assert engine.finished() == []


def test_a_turn_can_be_submitted_while_others_are_written(engine: VllmEngine, policy: Policy) -> None:
    first, second, third = requests(policy, [4, 1, 1])
    engine.submit([first, second])
    assert [key for key, _ in engine.finished()] == [11]
    engine.submit([third])
    assert [key for key, _ in engine.finished()] == [12]
    assert [key for key, _ in engine.finished()] == [10]


def test_a_turn_does_not_depend_on_when_it_is_written(engine: VllmEngine, policy: Policy) -> None:
    asked = requests(policy, [6, 6, 6])
    engine.submit(asked)
    together: dict[int, Any] = {}
    while len(together) < 3:
        together.update(engine.finished())
    for request in reversed(asked):
        engine.submit([request])
        ((key, alone),) = engine.finished()
        assert (key, alone.ids) == (request.key, together[key].ids)


def test_waiting_ends_after_its_time(engine: VllmEngine, policy: Policy) -> None:
    engine.submit(requests(policy, [3]))
    assert engine.finished(timeout=0) == []
    assert engine.finished(timeout=0) == []
    assert [key for key, _ in engine.finished(timeout=0)] == [10]


def test_cancelled_turns_are_not_returned(engine: VllmEngine, policy: Policy) -> None:
    asked = requests(policy, [5, 5])
    engine.submit(asked)
    engine.finished(timeout=0)
    engine.cancel()
    assert engine.finished() == []
    assert engine.llm.reset_prefix_cache()  # nothing is in use
    engine.submit(asked[:1])
    assert [key for key, _ in engine.finished()] == [10]


def test_a_step_that_fails_leaves_nothing_in_flight(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(policy, [5, 5])
    engine.submit(asked)
    with monkeypatch.context() as patch:
        patch.setattr(engine.llm.llm_engine, "step", failing("CUDA out of memory"))
        with pytest.raises(EngineError, match=r"failed to decode: RuntimeError: CUDA out of memory; .*memory_utiliz"):
            engine.finished()
    assert engine.finished() == []
    assert not engine.llm.llm_engine.has_unfinished_requests()
    engine.submit(asked)
    assert engine.finished()


def test_requests_that_are_lost_are_an_error(engine: VllmEngine, policy: Policy) -> None:
    engine.submit(requests(policy, [5, 5]))
    engine.llm.llm_engine.abort_request(["10", "11"])
    with pytest.raises(EngineError, match="2 requests are lost"):
        engine.finished()
    assert engine.finished() == []


def test_a_request_that_is_refused_leaves_nothing_in_flight(engine: VllmEngine, policy: Policy) -> None:
    first, second = requests(policy, [5, 5])
    long = TurnRequest(second.key, (7,) * 2_000, 1, 5, 1.0, episode=1)
    with pytest.raises(EngineError, match=r"failed to take a request: ValueError: The decoder prompt \(length 2000\)"):
        engine.submit([first, long])
    assert engine.finished() == []
    assert not engine.llm.llm_engine.has_unfinished_requests()


# ---------------------------------------------------------------- sleep


def test_it_sleeps_from_the_rollout_to_the_new_weights(gpu_engine: VllmEngine, policy: Policy) -> None:
    weights = dict(policy.model.state_dict())
    gpu_engine.sleep()
    gpu_engine.sleep()
    gpu_engine.update_weights(weights.items())
    gpu_engine.update_weights(weights.items())
    assert gpu_engine.llm.calls == [
        "sleep 2",
        "wake_up weights",
        "reload_weights",
        "wake_up kv_cache",
        "reload_weights",
    ]
    gpu_engine.submit(requests(policy, [3]))
    assert gpu_engine.finished()


def test_an_engine_that_sleeps_writes_nothing(gpu_engine: VllmEngine, policy: Policy) -> None:
    gpu_engine.sleep()
    with pytest.raises(EngineError, match="sleeps, without weights; call update_weights"):
        gpu_engine.submit(requests(policy, [3]))


def test_a_cpu_has_no_sleep_mode(engine: VllmEngine, policy: Policy) -> None:
    engine.sleep()
    assert engine.llm.calls == []
    engine.submit(requests(policy, [3]))
    assert engine.finished()


def test_weights_that_vllm_refuses_are_an_error(
    gpu_engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine.llm, "collective_rpc", failing("There is no module or parameter named 'x'"))
    with pytest.raises(EngineError, match=r"failed to load weights: RuntimeError: There is no module"):
        gpu_engine.update_weights(policy.model.state_dict().items())


def test_the_sampler_lets_it_sleep(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, gpu=True)
    sampler = Sampler(policy, RolloutConfig(engine="vllm"), ["</search>", "</answer>"], Processes())
    sampler.sleep()  # nothing to do before it is started
    sampler.start()
    for _ in range(2):
        sampler.sleep()
        sampler.sync_weights()
    assert sampler.engine is not None
    assert difference(sampler.engine, sampler.policy, sampler.turn_end).most < 1e-4
    sampler.close()


# ---------------------------------------------------------------- how it is started and ended


def test_one_of_several_processes_serves_its_own_requests(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, gpu=True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    kept: list[Any] = []
    monkeypatch.setattr(vllm_local, "_KEPT", kept)
    engine = VllmEngine(policy, turn_end(policy), SETTINGS)
    (llm,) = fake_vllm.LLM.made
    assert llm.options["distributed_executor_backend"] == "external_launcher"
    assert "tensor_parallel_size" not in llm.options  # 1
    engine.submit(requests(policy, [3]))
    assert engine.finished()
    engine.close()
    engine.close()
    assert llm.calls == ["sleep 2"]
    assert not llm.llm_engine.engine_core.stopped  # which would destroy the process group of the run
    assert kept == [llm]


def test_alone_it_is_shut_down(engine: VllmEngine) -> None:
    core = engine.llm.llm_engine.engine_core
    assert "distributed_executor_backend" not in engine.llm.options
    engine.close()
    assert core.stopped


@pytest.mark.parametrize("gpu", [True, False])
def test_options_of_the_platform(gpu: bool, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, gpu=gpu)
    VllmEngine(policy, turn_end(policy), SETTINGS).close()
    (llm,) = fake_vllm.LLM.made
    assert llm.options.get("enable_sleep_mode", False) is gpu
    assert llm.options.get("enable_chunked_prefill", True) is gpu  # split prompts fail on a CPU
    assert llm.options.get("max_num_batched_tokens", 4_096) == 4_096


def test_a_vllm_that_does_not_start_says_what_to_change(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, gpu=True)
    monkeypatch.setattr(fake_vllm.LLM, "__init__", failing("Free memory on device (3/79 GiB) is less than desired"))
    with pytest.raises(ConfigurationError, match=r"vLLM does not start with .*: Free memory.*gpu_memory_utilization"):
        VllmEngine(policy, turn_end(policy), SETTINGS)


def test_a_gpu_that_vllm_would_not_use_is_refused(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "device", torch.device("cuda:1"))
    with pytest.raises(ConfigurationError, match=r"policy.device='cuda:1'.*set CUDA_VISIBLE_DEVICES=1"):
        VllmEngine(policy, turn_end(policy), SETTINGS)


def test_the_state_of_the_process_is_kept(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    begin, set_num_threads = fake_vllm.LLM.__init__, torch.set_num_threads

    def disturbing(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads = lambda number: None

    monkeypatch.setattr(fake_vllm.LLM, "__init__", disturbing)
    state = torch.random.get_rng_state()
    VllmEngine(policy, turn_end(policy), SETTINGS).close()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.set_num_threads is set_num_threads


@pytest.mark.parametrize(("cuda", "phase"), [(True, "rollout"), (False, "always")])
def test_its_share_is_free_in_updates_where_it_sleeps(cuda: bool, phase: str) -> None:
    sizes = GenerationSizes(8, 1_024, 1_000, 30_000, BIG, [1_024], cuda)
    (line,) = VllmEngine.memory(SETTINGS, sizes)
    assert (line.bytes, line.phase) == (int(0.4 * BIG), phase)


def failing(message: str) -> Any:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(message)

    return fail
