"""Every engine writes what the built-in decoder would; one that writes anything else is found out.

vLLM is a fake here (`fake_vllm.py`) that generates with the bundled policy.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_vllm
import numpy as np
import pytest
import torch
from models import bundled_policy, tiny_policy, turn_end
from services import free_port, raw_service, serving
from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.config import EngineSettings, RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.base import Engine, EngineError, GenerationSizes
from algorithms.common.rollout.engines.continuous_batching import ContinuousBatchingEngine
from algorithms.common.rollout.engines.vllm_local import VllmEngine
from algorithms.common.rollout.engines.vllm_server import VllmServerEngine
from algorithms.common.rollout.sampler import make_engine
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_retriever, bundled_world

ENGINES = ("transformers", "vllm", "vllm_server")
SEEDED = ("vllm", "vllm_server")  # each request has a seed of its own
PROMPTS = ["Where was Zose Drartov born?\n", "Who wrote it?\n", "In which country was the author of it born?\n"]
NEW = 24
MODEL = str(POLICY_FOLDER)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return bundled_policy()


@pytest.fixture
def engine(request: pytest.FixtureRequest, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine of the name that a test is parametrized with."""
    with ExitStack() as stack:
        server = ""
        if request.param == "vllm":
            fake_vllm.install(monkeypatch)
        elif request.param == "vllm_server":
            server = stack.enter_context(serving(fake_vllm.Server(MODEL).app))
        config = RolloutConfig(engine=request.param, server_url=server, kv_cache_tokens=8192)
        made = make_engine(config, policy, turn_end(policy))
        assert made is not None
        assert made.name == request.param
        stack.callback(made.close)
        yield made


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM in process sets for good is restored when a test ends."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


def settings(**changed: Any) -> EngineSettings:
    """Settings of an engine."""
    return replace(EngineSettings("float32", 8_192, 4_096, "", 0.4), **changed)


def every_engine(names: Sequence[str] = ENGINES) -> pytest.MarkDecorator:
    """Run a test for each of these engines."""
    return pytest.mark.parametrize("engine", names, indirect=True)


def writer_of(engine: Engine, policy: Policy, temperature: float = 1.0, slots: int = 8) -> EngineDecoder:
    return EngineDecoder(engine, policy, turn_end(policy), slots=slots, max_new_tokens=NEW, temperature=temperature)


def turns_of(writer: EngineDecoder | Decoder, prompts: Sequence[Sequence[int]]) -> list[Completion]:
    """One turn for each prompt, each with a generator of its own."""
    slots = [writer.begin(prompt, np.random.default_rng(number)) for number, prompt in enumerate(prompts)]
    writer.prefill()
    written: dict[int, Completion] = {}
    while writer.writing:
        written.update(writer.decode_step())
    for slot in slots:
        writer.end(slot)
    return [written[slot] for slot in slots]


def greedy_turns(policy: Policy, prompts: Sequence[Sequence[int]]) -> list[Completion]:
    return turns_of(Decoder(policy, turn_end(policy), slots=8, max_new_tokens=NEW, temperature=0.0), prompts)


def episodes(
    engine: Engine, policy: Policy, questions: int, temperature: float = 1.0, *, asynchronous: bool = False
) -> list[Trajectory]:
    """Two rollouts of each of the first test questions."""
    chosen = bundled_world().questions["test"][:questions]
    search = EpisodeStepper(
        chosen, bundled_retriever(), None, EpisodeRules(max_searches=3, protocol=make_protocol(prompt="bare"))
    )
    writer = writer_of(engine, policy, temperature)
    writer.asynchronous = asynchronous
    return collect(writer, search, chosen, group_size=2, seed=(5,)).trajectories


def written(trajectories: Sequence[Trajectory]) -> list[list[tuple[int, ...]]]:
    return [[turn.completion_ids for turn in t.turns] for t in trajectories]


def own_logprobs(policy: Policy, prompt: Sequence[int], ids: Sequence[int], temperature: float) -> list[float]:
    """What the policy itself gives to a completion."""
    row = torch.tensor([[*prompt, *ids]])
    mask = torch.zeros(row.shape, dtype=torch.bool)
    mask[0, len(prompt) :] = True
    with torch.no_grad():
        return [float(x) for x in policy.token_logprobs(row, mask, temperature or 1.0)[0]]


# ---------------------------------------------------------------- what every engine owes


@every_engine()
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_turns_end_at_their_action_with_log_probs_of_what_was_sampled(
    engine: Engine, policy: Policy, temperature: float
) -> None:
    prompts = [policy.tokenizer.encode(text) for text in PROMPTS]
    turns = turns_of(writer_of(engine, policy, temperature), prompts)
    assert any(turn_end(policy).is_over(turn.ids) for turn in turns)
    for prompt, turn in zip(prompts, turns, strict=True):
        assert turn_end(policy).is_over(turn.ids) or len(turn.ids) == NEW
        assert not any(turn_end(policy).is_over(turn.ids[:n]) for n in range(1, len(turn.ids)))
        np.testing.assert_allclose(turn.logprobs, own_logprobs(policy, prompt, turn.ids, temperature), atol=1e-4)


@every_engine()
def test_greedy_turns_are_those_of_the_decoder(engine: Engine, policy: Policy) -> None:
    prompts = [policy.tokenizer.encode(text) for text in PROMPTS]
    for turn, expected in zip(
        turns_of(writer_of(engine, policy, 0.0), prompts), greedy_turns(policy, prompts), strict=True
    ):
        assert turn.ids == expected.ids
        np.testing.assert_allclose(turn.logprobs, expected.logprobs, atol=1e-4)


@every_engine()
def test_episodes_search_and_answer_and_the_same_seeds_give_the_same_ones(engine: Engine, policy: Policy) -> None:
    first = episodes(engine, policy, 4)
    assert len(first) == 8
    assert all(t.done for t in first)
    assert sum(turn.is_search for t in first for turn in t.turns) >= 6
    assert sum(t.turns[-1].text.endswith("</answer>") for t in first) >= 4
    for t in first:
        context = list(t.prompt_ids)
        for turn in t.turns:
            np.testing.assert_allclose(turn.logprobs, own_logprobs(policy, context, turn.completion_ids, 1), atol=1e-4)
            context += [*turn.completion_ids, *turn.observation_ids]
    turns = written(first)
    assert sum(turns[i] != turns[i + 1] for i in range(0, 8, 2)) >= 2  # the rollouts of a question differ
    assert written(episodes(engine, policy, 4)) == turns


@every_engine()
def test_other_seeds_give_other_turns(engine: Engine, policy: Policy) -> None:
    prompts = [policy.tokenizer.encode(text) for text in PROMPTS]

    def sampled(seed: int) -> list[tuple[int, ...]]:
        return [c.ids for c in engine.complete(prompts, [seed] * 3, max_new_tokens=NEW, temperature=1.0)]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


@every_engine(SEEDED)
def test_a_wider_batch_does_not_change_an_episode(engine: Engine, policy: Policy) -> None:
    assert written(episodes(engine, policy, 3))[:2] == written(episodes(engine, policy, 1))


@every_engine(SEEDED)
def test_asynchronous_episodes_are_those_of_lockstep(engine: Engine, policy: Policy) -> None:
    alone = episodes(engine, policy, 3, asynchronous=True)
    assert written(alone) == written(episodes(engine, policy, 3))
    assert all(t.done for t in alone)


@every_engine()
def test_new_weights_change_what_is_written(engine: Engine, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [policy.tokenizer.encode(text) for text in PROMPTS]
    other = bundled_policy()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    expected = [turn.ids for turn in greedy_turns(other, prompts)]
    writer = writer_of(engine, policy, 0.0)
    before = [turn.ids for turn in turns_of(writer, prompts)]
    assert before != expected
    if isinstance(engine, ContinuousBatchingEngine):  # which shares its weights
        monkeypatch.setattr(engine, "policy", other)
    engine.update_weights(other.model.state_dict().items())
    assert [turn.ids for turn in turns_of(writer, prompts)] == expected
    if not isinstance(engine, ContinuousBatchingEngine):
        engine.update_weights(policy.model.named_parameters())  # tied weights once, and with gradients
        assert [turn.ids for turn in turns_of(writer, prompts)] == before


@every_engine()
def test_a_prompt_without_room_for_a_turn_is_refused(engine: Engine, policy: Policy) -> None:
    writer = writer_of(engine, policy)
    writer.begin([7] * (policy.context_length - NEW), np.random.default_rng(0))
    writer.begin([7] * (policy.context_length - NEW + 1), np.random.default_rng(1))
    with pytest.raises(ConfigurationError, match=r"1001 tokens: a context of 1024 has room for 1000 with 24"):
        writer.prefill()


@every_engine()
def test_a_prompt_that_fills_the_context_is_completed(engine: Engine, policy: Policy) -> None:
    words = policy.tokenizer.encode(PROMPTS[2])
    prompt = (words * 1000)[-(policy.context_length - NEW) :]
    (turn,) = turns_of(writer_of(engine, policy, 0.0), [prompt])
    assert turn.ids == greedy_turns(policy, [prompt])[0].ids


# ---------------------------------------------------------------- engines that misbehave


class Scripted(Engine):
    """Returns given completions for any prompts."""

    name = "scripted"

    def __init__(self, *completions: Completion) -> None:
        self.completions = list(completions)
        self.calls: list[tuple[list[tuple[int, ...]], list[int]]] = []

    def complete(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        self.calls.append((list(prompts), list(seeds)))
        return self.completions

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        raise AssertionError

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        raise AssertionError


def misbehaviours() -> Iterator[Any]:
    """Completions for one prompt, and what the error says of them."""
    policy = tiny_policy()
    turn = policy.tokenizer.encode("<search> born city</search>")
    fine = Completion(turn, (-0.5,) * len(turn))
    outside = policy.model.config.vocab_size
    yield pytest.param([], "returned 0 completions for 1 prompts; it must return one for each", id="none")
    yield pytest.param([fine, fine], "returned 2 completions for 1 prompts", id="too many")
    yield pytest.param([Completion((), ())], "completion 0: it has no tokens", id="empty")
    for token in (-1, outside):
        strange = [Completion((token, *turn[1:]), fine.logprobs)]
        yield pytest.param(strange, f"id {token} is outside the policy's vocabulary of {outside}", id=f"id {token}")
    yield pytest.param([Completion((5,) * 25, (-1.0,) * 25)], "25 tokens, more than max_new_tokens=24", id="long")
    yield pytest.param([Completion(turn, fine.logprobs[1:])], f"{len(turn) - 1} log-probs for {len(turn)}", id="few")
    for value in (float("nan"), float("-inf"), 0.01):
        wrong = [Completion(turn, (value, *fine.logprobs[1:]))]
        yield pytest.param(wrong, f"a log-prob is {value}; it must be finite and at most 0", id=f"log-prob {value}")
    after = policy.tokenizer.encode(" and more")
    going_on = [Completion(turn + after, (-0.5,) * len(turn + after))]
    rest = rf"continues after the end of its turn \({len(after)} tokens, ' and more'\)"
    yield pytest.param(going_on, rest, id="after")
    two = [Completion((*turn, policy.tokenizer.hf_tokenizer.eos_token_id), (*fine.logprobs, -0.1))]
    yield pytest.param(two, r"continues after the end of its turn \(1 tokens", id="eos after")
    yield pytest.param([Completion(turn[:-1], fine.logprobs[1:])], "stopped after .* before the turn ended", id="short")


@pytest.mark.parametrize(("completions", "message"), list(misbehaviours()))
def test_what_an_engine_must_not_return_is_refused(completions: list[Completion], message: str) -> None:
    policy = tiny_policy()
    writer = writer_of(Scripted(*completions), policy)
    writer.begin(policy.tokenizer.encode(PROMPTS[0]), np.random.default_rng(0))
    writer.prefill()
    with pytest.raises(EngineError, match=message) as caught:
        writer.decode_step()
    assert "rollout.engine='scripted'" in str(caught.value)
    assert ";" in str(caught.value) or ": " in str(caught.value)  # what to do comes last


@pytest.mark.parametrize("ids", ["<search> born city</search>", "<think> 1 > 0", "eos", "full"])
def test_what_may_be_returned_is_passed_on(ids: str) -> None:
    policy = tiny_policy()
    texts = {"eos": (9, policy.tokenizer.hf_tokenizer.eos_token_id), "full": (9,) * NEW}
    turn = texts.get(ids) or policy.tokenizer.encode(ids)
    turn = turn if ids != "<think> 1 > 0" else (turn * NEW)[:NEW]
    completion = Completion(turn, (5e-4,) * len(turn))  # rounding may lift a log-prob of 0
    assert turns_of(writer_of(Scripted(completion), policy), [(1, 2)]) == [completion]


def test_one_call_serves_all_that_is_queued_and_slots_are_taken_again() -> None:
    policy = tiny_policy()
    turn = policy.tokenizer.encode("<search> x</search>")
    completion = Completion(turn, (-1.0,) * len(turn))
    engine = Scripted(completion, completion)
    writer = writer_of(engine, policy, slots=2)
    a, b = writer.begin((1, 2), np.random.default_rng(0)), writer.begin((3,), np.random.default_rng(1))
    assert writer.free == 0
    assert writer.writing == 0
    writer.prefill()
    assert writer.writing == 2
    assert dict(writer.decode_step()) == {a: completion, b: completion}
    assert writer.writing == 0
    writer.end(a)
    c = writer.begin((8,), np.random.default_rng(2))
    writer.append_observation(b, (4, 5))
    writer.prefill()
    writer.decode_step()
    assert [
        dict(zip(sorted((s, b)), prompts, strict=True)) for s, (prompts, _) in zip((a, c), engine.calls, strict=True)
    ] == [
        {a: (1, 2), b: (3,)},
        {c: (8,), b: (3, *turn, 4, 5)},
    ]
    assert all(0 <= seed < 2**31 for _, seeds in engine.calls for seed in seeds)
    assert len({seed for _, seeds in engine.calls for seed in seeds}) == 4


def test_what_is_cancelled_is_not_written() -> None:
    policy = tiny_policy()
    completion = Completion((9,) * NEW, (-1.0,) * NEW)
    engine = Scripted(completion)
    writer = writer_of(engine, policy, slots=2)
    writer.begin((1,), np.random.default_rng(0))
    writer.prefill()
    writer.begin((2,), np.random.default_rng(1))
    writer.cancel()
    assert (writer.free, writer.writing, writer.decode_step()) == (2, 0, [])
    assert turns_of(writer, [(3,)]) == [completion]
    assert [prompts for prompts, _ in engine.calls] == [[(3,)]]


def test_greedy_turns_need_no_generator() -> None:
    policy = tiny_policy()
    writer = writer_of(Scripted(Completion((9,) * NEW, (-1.0,) * NEW)), policy, temperature=0.0)
    writer.begin((1,))
    writer.prefill()
    assert len(writer.decode_step()) == 1


# ---------------------------------------------------------------- transformers


def test_a_model_is_left_as_it_was(policy: Policy) -> None:
    engine = ContinuousBatchingEngine(policy, turn_end(policy), settings(kv_cache_tokens=4096, pass_tokens=512))
    attention = policy.model.config._attn_implementation
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    engine.complete([policy.tokenizer.encode(PROMPTS[0])], [1], max_new_tokens=4, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)
    assert policy.model.config._attn_implementation == attention


def test_a_failure_of_the_generating_thread_is_an_error(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ContinuousBatchingEngine(policy, turn_end(policy), settings(kv_cache_tokens=4096, pass_tokens=512))
    attention = policy.model.config._attn_implementation

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(policy.model, "forward", fail)
    with pytest.raises(EngineError, match=r"no memory is left.*lower kv_cache_tokens"):
        engine.complete([policy.tokenizer.encode(PROMPTS[0])], [1], max_new_tokens=4, temperature=1.0)
    monkeypatch.undo()
    assert policy.model.config._attn_implementation == attention
    assert engine.complete([policy.tokenizer.encode(PROMPTS[0])], [1], max_new_tokens=1, temperature=1.0)


def test_an_old_transformers_is_named(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.generation.continuous_batching.continuous_api", None)
    with pytest.raises(ConfigurationError, match="transformers is too old"):
        ContinuousBatchingEngine(policy, turn_end(policy), settings(kv_cache_tokens=4096, pass_tokens=512))


# ---------------------------------------------------------------- vLLM in this process


def test_a_missing_vllm_names_its_extra_and_the_other_engines(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(
        ConfigurationError, match=r'pip install "igsearch\[vllm\]".*builtin or transformers.*vllm_server'
    ):
        VllmEngine(policy, turn_end(policy), settings())


@every_engine(("vllm",))
def test_vllm_is_given_the_settings_of_the_run(engine: Engine) -> None:
    (llm,) = fake_vllm.LLM.made
    assert llm.options["dtype"] == "float32"
    assert llm.options["gpu_memory_utilization"] == RolloutConfig().gpu_memory_utilization
    assert llm.options["max_model_len"] == 1024
    assert llm.options["enable_prefix_caching"]
    assert llm.options["generation_config"] == "vllm"


@every_engine(("vllm",))
def test_a_rollout_sends_its_turns_together(engine: Engine, policy: Policy) -> None:
    episodes(engine, policy, 2)
    (llm,) = fake_vllm.LLM.made
    assert llm.core.batches[0] == 4
    assert len(llm.core.batches) <= 4  # searches and an answer


@pytest.mark.parametrize("temperature", [0.005, 2.5])
@every_engine(SEEDED)
def test_a_temperature_that_vllm_would_change_or_refuse_is_refused(
    engine: Engine, policy: Policy, temperature: float
) -> None:
    with pytest.raises(ConfigurationError, match=f"temperature={temperature}: vLLM samples at 0.01 to 2.0"):
        engine.complete([policy.tokenizer.encode(PROMPTS[0])], [1], max_new_tokens=4, temperature=temperature)


@every_engine(SEEDED)
def test_a_tag_that_vllm_sees_a_token_late_ends_the_turn_where_it_stands(
    engine: Engine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = fake_vllm.StopRules.is_over
    monkeypatch.setattr(fake_vllm.StopRules, "is_over", lambda self, ids: at_once(self, ids[:-1] or ids))
    prompts = [policy.tokenizer.encode(prompt) for prompt in PROMPTS]
    written = turns_of(writer_of(engine, policy, 0.0), prompts)
    assert [turn.ids for turn in written] == [turn.ids for turn in greedy_turns(policy, prompts)]


def test_vllm_in_process_leaves_the_trainer_its_threads(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        VllmEngine(policy, turn_end(policy), settings())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_pages_that_do_not_fit_are_an_error(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ContinuousBatchingEngine(policy, turn_end(policy), settings(kv_cache_tokens=4096, pass_tokens=512))
    attention = policy.model.config._attn_implementation

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no memory is left")

    prompt = policy.tokenizer.encode(PROMPTS[0])
    with monkeypatch.context() as patch:
        patch.setattr("transformers.generation.continuous_batching.continuous_api.PagedAttentionCache", fail)
        with pytest.raises(EngineError, match=r"no memory is left.*lower kv_cache_tokens"):
            engine.complete([prompt], [1], max_new_tokens=4, temperature=1.0)
    assert policy.model.config._attn_implementation == attention
    assert engine.complete([prompt], [1], max_new_tokens=1, temperature=1.0)


def test_float32_weights_are_not_given_to_flash_attention(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    found = "transformers.generation.continuous_batching.continuous_api.is_flash_attn_3_available"
    monkeypatch.setattr(found, lambda **options: True)
    engine = ContinuousBatchingEngine(policy, turn_end(policy), settings(kv_cache_tokens=4096, pass_tokens=512))
    assert engine.complete([policy.tokenizer.encode(PROMPTS[0])], [1], max_new_tokens=1, temperature=1.0)


@pytest.mark.parametrize("rows", [None, [], [{9: fake_vllm.Logprob(-1.0)}]])
def test_log_probs_of_other_tokens_are_refused(rows: Any, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    engine = VllmEngine(policy, turn_end(policy), settings())
    output = fake_vllm.CompletionOutput(0, "", [8], None, rows)
    step = [SimpleNamespace(request_id="0", finished=True, outputs=[output])]
    monkeypatch.setattr(engine.llm.llm_engine, "step", lambda: step)
    with pytest.raises(EngineError, match="returned 1 tokens with log-probs of"):
        engine.complete([(1,)], [1], max_new_tokens=1, temperature=1.0)


@every_engine(("vllm",))
def test_a_prefix_cache_that_stays_is_an_error(engine: Engine, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    (llm,) = fake_vllm.LLM.made
    monkeypatch.setattr(llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(EngineError, match="prefix cache was not reset"):
        engine.update_weights(policy.model.state_dict().items())


# ---------------------------------------------------------------- a vLLM server


def test_a_server_that_is_not_there_is_named(policy: Policy) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        EngineError, match=rf"rollout.server_url='{address}' can't be connected to for GET /health.*check that it runs"
    ):
        VllmServerEngine(policy, turn_end(policy), settings(server_url=address + "/v1/"), seconds=5)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port", ""])
def test_what_is_no_address_is_refused(address: str, policy: Policy) -> None:
    with pytest.raises(ConfigurationError, match=r"is not the address of a server; give http://HOST:PORT"):
        VllmServerEngine(policy, turn_end(policy), settings(server_url=address))


def test_a_server_that_never_answers_is_given_up(policy: Policy) -> None:
    def hold(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(65536)
        ended.wait()

    with raw_service(hold) as address, pytest.raises(EngineError, match=r"did not answer GET /health within 0.3 s"):
        VllmServerEngine(policy, turn_end(policy), settings(server_url=address), seconds=0.3)


def test_a_server_that_sends_its_headers_byte_by_byte_is_given_up(policy: Policy) -> None:
    closed = threading.Event()

    def drip(connection: socket.socket, ended: threading.Event) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx-name: ")
            while not ended.wait(0.01):
                connection.sendall(b"a")
        except OSError:
            closed.set()

    with raw_service(drip) as address:
        with pytest.raises(EngineError, match=r"did not answer GET /health within 0.3 s .*not complete"):
            VllmServerEngine(policy, turn_end(policy), settings(server_url=address), seconds=0.3)
        assert closed.wait(30)


def test_a_completion_that_does_not_come_is_given_up(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    server, held = fake_vllm.Server(MODEL), threading.Event()
    generate = server.core.generate

    def slow(prompts: Any, params: Any, adapter: str = "") -> Any:
        held.wait()
        return generate(prompts, params, adapter)

    monkeypatch.setattr(server.core, "generate", slow)
    with serving(server.app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address), seconds=2)
        engine.seconds = 0.3
        try:
            with pytest.raises(EngineError, match=r"within 0.3 s"):
                engine.complete([(1,), (2,)], [1, 2], max_new_tokens=4, temperature=1.0)
        finally:
            held.set()
            engine.close()


def test_a_server_that_stops_is_named(policy: Policy) -> None:
    with serving(fake_vllm.Server(MODEL).app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address), seconds=5)
    with pytest.raises(EngineError, match="can't be connected to for POST /v1/completions"):
        engine.complete([(1,)], [1], max_new_tokens=4, temperature=1.0)
    with pytest.raises(EngineError, match="can't be connected to for POST /collective_rpc"):
        engine.update_weights(policy.model.state_dict().items())
    engine.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dev_mode": False}, r"development mode.*VLLM_SERVER_DEV_MODE=1"),
        ({"logprobs_mode": "raw_logprobs"}, r"logprobs-mode 'raw_logprobs'.*--logprobs-mode processed_logprobs"),
        (
            {"max_model_len": 512},
            r"a context of 512 tokens, but the policy one of 1024; start it with --max-model-len 1024",
        ),
    ],
)
def test_a_server_that_is_started_otherwise_is_refused(options: dict[str, Any], message: str, policy: Policy) -> None:
    with serving(fake_vllm.Server(MODEL, **options).app) as address, pytest.raises(ConfigurationError, match=message):
        VllmServerEngine(policy, turn_end(policy), settings(server_url=address))


def test_a_refused_request_says_why(policy: Policy) -> None:
    with serving(fake_vllm.Server(MODEL).app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address))
        with pytest.raises(EngineError, match=r"status 400.*maximum context length"):
            engine.complete([(1,), (7,) * 2000], [1, 2], max_new_tokens=4, temperature=1.0)
        engine.close()


def test_a_request_asks_for_the_plain_distribution_and_sees_special_tokens(policy: Policy) -> None:
    server = fake_vllm.Server(MODEL)
    with serving(server.app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address))
        engine.complete([policy.tokenizer.encode(PROMPTS[0])], [77], max_new_tokens=19, temperature=0.7)
        engine.close()
    (request,) = server.requests
    expected = {"temperature": 0.7, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "seed": 77}
    expected |= {
        "max_tokens": 19,
        "skip_special_tokens": False,
        "stop_token_ids": [policy.tokenizer.hf_tokenizer.eos_token_id],
    }
    assert expected.items() <= request.items()
    assert request["top_k"] in (0, -1)


def test_a_server_without_the_folder_says_so(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake_vllm.Server(MODEL)
    reload = server.core.reload_weights
    monkeypatch.setattr(server.core, "reload_weights", lambda weights_path: reload(weights_path="/elsewhere/weights"))
    with serving(server.app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address))
        message = r"/collective_rpc with status 500.*Cannot find any.*can read .*igsearch-weights-.*/000001 .*TMPDIR"
        with pytest.raises(EngineError, match=message):
            engine.update_weights(policy.model.state_dict().items())
        engine.close()


def test_a_server_whose_prefix_cache_stays_is_an_error(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake_vllm.Server(MODEL)
    monkeypatch.setattr(server.core, "reset_prefix_cache", lambda: False)
    with serving(server.app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address))
        with pytest.raises(EngineError, match="did not reset its prefix cache"):
            engine.update_weights(policy.model.state_dict().items())
        engine.close()


def test_handed_over_weights_do_not_pile_up(policy: Policy, tmp_path: Path) -> None:
    with serving(fake_vllm.Server(MODEL).app) as address:
        engine = VllmServerEngine(policy, turn_end(policy), settings(server_url=address), folder=tmp_path)
        for _ in range(3):
            engine.update_weights(policy.model.state_dict().items())
        assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["model-00001.safetensors"]
        assert not list(tmp_path.rglob("*.partial"))
        engine.close()
    assert not list(tmp_path.iterdir())


def test_a_server_of_another_kind_is_named(policy: Policy) -> None:
    def answer(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    with raw_service(answer) as address, pytest.raises(EngineError, match=r"/v1/models: not an answer of vLLM: '\{\}'"):
        VllmServerEngine(policy, turn_end(policy), settings(server_url=address))


# ---------------------------------------------------------------- choosing one


def test_the_builtin_decoder_is_no_engine(policy: Policy) -> None:
    assert make_engine(RolloutConfig(), policy, turn_end(policy)) is None
