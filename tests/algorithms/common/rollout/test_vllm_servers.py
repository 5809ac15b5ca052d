"""The engine of vLLM servers: requests one by one, several servers, adapters, and files of weights.

The servers are fakes (`fake_vllm.py`), compared with recordings of the real one by `test_fake_vllm.py`.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import torch
from models import bundled_policy, turn_end
from paths import ROOT
from services import raw_service, serving

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.config import EngineSettings, RolloutConfig
from algorithms.common.rollout.engines import vllm_server, weight_files
from algorithms.common.rollout.engines.base import EngineError, TurnRequest
from algorithms.common.rollout.engines.event_loop import EventLoop
from algorithms.common.rollout.engines.served_vllm import ServedVllm
from algorithms.common.rollout.engines.vllm_server import VllmServerEngine
from algorithms.common.rollout.engines.weight_files import FILE_BYTES, WeightFiles, handover_folder
from algorithms.common.rollout.probe import difference
from algorithms.common.rollout.sampler import Sampler
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import POLICY_FOLDER

MODEL = str(POLICY_FOLDER)
STOPS = ("</search>", "</answer>")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope="module")
def policy() -> Policy:
    return bundled_policy()


def served(stack: ExitStack, *servers: fake_vllm.Server) -> str:
    """The value of `rollout.server_url` for these servers."""
    return ",".join(stack.enter_context(serving(server.app)) for server in servers)


def engine_of(stack: ExitStack, policy: Policy, url: str, **options: Any) -> VllmServerEngine:
    engine = VllmServerEngine(policy, turn_end(policy), EngineSettings("float32", 8_192, 4_096, url, 0.4), **options)
    stack.callback(engine.close)
    return engine


def sampler_of(stack: ExitStack, policy: Policy, url: str, processes: Processes | None = None) -> Sampler:
    config = RolloutConfig(engine="vllm_server", server_url=url)
    sampler = Sampler(policy, config, STOPS, processes or Processes())
    stack.callback(sampler.close)
    sampler.start()
    return sampler


def request(policy: Policy, key: int, episode: int | None = None, text: str = "Who wrote it?\n") -> TurnRequest:
    prompt = tuple(policy.tokenizer.encode(text))
    return TurnRequest(key, prompt, key, 8, 1.0, key if episode is None else episode)


def all_of(engine: VllmServerEngine) -> list[int]:
    keys: list[int] = []
    while turns := engine.finished():
        keys += [key for key, _ in turns]
    return keys


# ---------------------------------------------------------------- one by one


def test_turns_are_returned_as_they_finish(stack: ExitStack, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    server, held = fake_vllm.Server(MODEL), threading.Event()
    stack.callback(held.set)
    generate = server.core.generate

    def slow(prompts: Any, params: Any, adapter: str = "") -> Any:
        if params[0].seed == 1:
            held.wait()
        return generate(prompts, params, adapter)

    monkeypatch.setattr(server.core, "generate", slow)
    engine = engine_of(stack, policy, served(stack, server))
    assert engine.streams
    engine.submit([request(policy, key) for key in range(3)])
    early: list[int] = []
    while len(early) < 2:
        early += [key for key, _ in engine.finished(30)]
    assert sorted(early) == [0, 2]
    assert engine.finished(0.05) == []
    engine.submit([request(policy, 3)])
    assert [key for key, _ in engine.finished(30)] == [3]
    held.set()
    assert all_of(engine) == [1]
    assert engine.finished() == []


def vllm_that_holds(closed: threading.Semaphore) -> Any:
    """A server that answers what is asked at the start, and no turn; it counts connections that close meanwhile."""
    answers = {
        "/health": b"",
        "/v1/models": b'{"data": [{"id": "m", "max_model_len": 4096}]}',
        "/server_info": b'{"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}}}',
    }

    def answer(connection: socket.socket, ended: threading.Event) -> None:
        while True:
            head = connection.recv(65536).decode("latin-1")
            if not head:
                return
            path = re.split(r"[ ?]", head)[1]
            if path not in answers:
                break
            body = answers[path]
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while connection.recv(65536):
            pass
        closed.release()

    return answer


@pytest.mark.parametrize("how", ["cancel", "late", "close"])
def test_requests_that_are_not_wanted_any_more_lose_their_connections(
    how: str, stack: ExitStack, policy: Policy
) -> None:
    closed = threading.Semaphore(0)
    url = stack.enter_context(raw_service(vllm_that_holds(closed)))
    engine = engine_of(stack, policy, url)
    if how == "late":
        engine.seconds = 0.2
    engine.submit([request(policy, key) for key in range(3)])
    match how:
        case "cancel":
            assert engine.finished(0.1) == []
            engine.cancel()
        case "close":
            assert engine.finished(0.1) == []
            engine.close()
        case "late":
            with pytest.raises(EngineError, match=rf"{url}' did not answer POST /v1/completions within 0.2 s"):
                all_of(engine)
    assert all(closed.acquire(timeout=30) for _ in range(3))
    if how != "close":
        assert engine.finished() == []


def test_after_one_error_nothing_is_in_flight(stack: ExitStack, policy: Policy) -> None:
    engine = engine_of(stack, policy, served(stack, fake_vllm.Server(MODEL)))
    too_long = TurnRequest(1, (7,) * 2000, 1, 8, 1.0, 1)
    engine.submit([request(policy, 0), too_long, request(policy, 2)])
    with pytest.raises(EngineError, match=r"status 400.*maximum context length"):
        all_of(engine)
    assert engine.finished() == []
    engine.submit([request(policy, 0)])
    assert all_of(engine) == [0]


# ---------------------------------------------------------------- several servers


def test_episodes_stay_with_their_server_and_are_spread(stack: ExitStack, policy: Policy) -> None:
    servers = [fake_vllm.Server(MODEL) for _ in range(3)]
    engine = engine_of(stack, policy, served(stack, *servers))
    for turn in range(3):
        engine.submit([request(policy, key, text=f"{key} {turn}\n") for key in range(6)])
        assert sorted(all_of(engine)) == list(range(6))
    seeds = [{sent["seed"] for sent in server.requests} for server in servers]
    assert [len(server.requests) for server in servers] == [6, 6, 6]  # two episodes of three turns
    assert [len(each) for each in seeds] == [2, 2, 2]


def test_a_new_episode_goes_to_the_server_with_the_fewest_turns_to_write(
    stack: ExitStack, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, free, held = fake_vllm.Server(MODEL), fake_vllm.Server(MODEL), threading.Event()
    generate = busy.core.generate

    def slow(prompts: Any, params: Any, adapter: str = "") -> Any:
        held.wait()
        return generate(prompts, params, adapter)

    monkeypatch.setattr(busy.core, "generate", slow)
    engine = engine_of(stack, policy, served(stack, busy, free))
    stack.callback(held.set)
    engine.submit([request(policy, key) for key in range(2)])
    assert [key for key, _ in engine.finished(30)] == [1]
    for key in (2, 3, 4):
        engine.submit([request(policy, key)])
        assert [key for key, _ in engine.finished(30)] == [key]
    engine.submit([request(policy, 5, episode=0)])  # stays with the busy server
    assert engine.finished(0.2) == []
    engine.end_episode(0)
    engine.submit([request(policy, 6, episode=0)])  # another episode of this number
    assert [key for key, _ in engine.finished(30)] == [6]
    held.set()
    assert sorted(all_of(engine)) == [0, 5]
    assert len(free.requests) == 5


def test_every_server_gets_every_update_and_is_compared(stack: ExitStack) -> None:
    policy = bundled_policy()
    servers = [fake_vllm.Server(MODEL), fake_vllm.Server(MODEL)]
    sampler = sampler_of(stack, policy, served(stack, *servers))
    change(policy)
    sampler.sync_weights()
    assert sampler.engine is not None
    assert len(sampler.engine.instances()) == 2
    assert all(difference(one, policy, sampler.turn_end).most < 1e-4 for one in sampler.engine.instances())


def test_the_server_that_is_off_is_named(stack: ExitStack) -> None:
    policy = bundled_policy()
    url = served(stack, fake_vllm.Server(MODEL), fake_vllm.Server(MODEL, head="kept"))
    sampler = sampler_of(stack, policy, url)
    change(policy)
    with pytest.raises(EngineError, match=rf"at {url.split(',')[1]} does not sample from the policy"):
        sampler.sync_weights()


def test_the_server_that_fails_is_named(stack: ExitStack, policy: Policy) -> None:
    lost = ExitStack()
    good, bad = served(stack, fake_vllm.Server(MODEL)), served(lost, fake_vllm.Server(MODEL))
    engine = engine_of(stack, policy, f"{good}, {bad}/v1/", seconds=5)
    lost.close()
    for act in (
        lambda: engine.complete([(1,)] * 4, [1] * 4, max_new_tokens=4, temperature=1.0),
        lambda: engine.update_weights(policy.model.state_dict().items()),
        lambda: engine_of(stack, policy, f"{good},{bad}", seconds=5),
    ):
        with pytest.raises(EngineError, match=f"rollout.server_url='{bad}' can't be connected to for"):
            act()
    assert engine.finished() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://a:1,http://a:1/v1", "names http://a:1 twice"),
        ("http://a:1,", "a comma is left over; remove it"),
        ("http://a:1,b:2", "'b:2' is not"),
        ("http://a:80,http://A", "names http://A twice"),
        ("https://a/x/,https://u:p@a:443/x", "names https://a:443/x twice"),
        ("http://a:70000", "is not the address of a server"),
        ("http://u:secret@a:b", r"'http://\*\*\*@a:b' is not"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str, stack: ExitStack, policy: Policy) -> None:
    with pytest.raises(ConfigurationError, match=message):
        engine_of(stack, policy, url)
    with pytest.raises(ConfigurationError, match=message):  # when the configuration is read
        RolloutConfig(engine="vllm_server", server_url=url)


def test_addresses_that_are_accepted() -> None:
    for url in (
        "http://a",
        "http://a:1, http://a:2/v1/",
        "http://***@a:1",
        "https://u:p,q@[::1]:8000,http://[::1]:8000",
    ):
        RolloutConfig(engine="vllm_server", server_url=url)


def test_a_reset_of_the_cache_that_is_no_answer_of_vllm_is_an_error(stack: ExitStack, policy: Policy) -> None:
    def answer(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nokay")

    url = stack.enter_context(raw_service(answer))

    async def drop() -> None:
        server = ServedVllm(url)
        try:
            await server.drop_cache(5)
        finally:
            await server.close()

    with pytest.raises(EngineError, match=r"/reset_prefix_cache: not an answer of vLLM: 'okay'"):
        asyncio.run(drop())


# ---------------------------------------------------------------- adapters


def adapted(*targets: str, rank: int = 8) -> Policy:
    lora = LoraConfig(rank=rank, target_modules=targets or ("all-linear",))
    return Policy.load(PolicyConfig(device="cpu", lora=lora))


def change(policy: Policy, scale: float = 0.02) -> None:
    """Change what is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")], ids=["all", "some"])
def test_an_adapter_is_sent_as_an_adapter(targets: tuple[str, ...], stack: ExitStack) -> None:
    policy = adapted(*targets)
    server = fake_vllm.Server(MODEL, lora={})
    sampler = sampler_of(stack, policy, served(stack, server))
    for _ in range(2):
        change(policy)
        sampler.sync_weights()
    assert sampler.engine is not None
    assert difference(sampler.engine, policy, sampler.turn_end).most < 1e-4
    assert difference(sampler.engine, adapted(*targets), sampler.turn_end).mean > 0.01
    assert list(server.core.adapters) == [sampler.engine.weights_name]  # those before are gone
    assert server.core.new_weights is None  # the base never changed
    assert len(set(server.paths)) == 4  # another name each time: no cache of an old one is read
    sampler.close()
    assert not server.core.adapters


def test_merged_weights_are_sent_where_a_server_takes_no_adapters(stack: ExitStack) -> None:
    policy = adapted()
    servers = [fake_vllm.Server(MODEL, lora={}), fake_vllm.Server(MODEL)]
    sampler = sampler_of(stack, policy, served(stack, *servers))
    change(policy)
    sampler.sync_weights()
    assert sampler.engine is not None
    assert not sampler.engine.takes_adapters
    assert all(difference(one, policy, sampler.turn_end).most < 1e-4 for one in sampler.engine.instances())


def test_a_server_that_ignores_adapters_is_found_at_the_start(stack: ExitStack) -> None:
    url = served(stack, fake_vllm.Server(MODEL, lora={}, applies_adapters=False))
    with pytest.raises(EngineError, match="with a random adapter in all its layers, as a test, the log-probs of"):
        sampler_of(stack, adapted(), url)


def test_the_policy_is_as_before_the_test_of_adapters(stack: ExitStack) -> None:
    policy = adapted()
    change(policy)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    sampler_of(stack, policy, served(stack, fake_vllm.Server(MODEL, lora={})))
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "rank", "message"),
    [
        (
            {"lora": {"max_lora_rank": 8}},
            9,
            "up to rank 8, but policy.lora.rank is 9; start it with --max-lora-rank 16",
        ),
        (
            {"lora": {"target_modules": ["q_proj"]}},
            4,
            "adapters to q_proj alone, but the policy's are in down_proj, gate_proj.*without --lora-target-modules",
        ),
        ({"lora": {"lora_dtype": "torch.bfloat16"}}, 4, "in bfloat16 beside a model in float32.*--lora-dtype auto"),
        ({"lora": {}, "runtime_lora": False}, 4, "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or without"),
    ],
    ids=["rank", "layers", "precision", "fixed"],
)
def test_a_server_that_an_adapter_does_not_fit_is_refused(
    options: dict[str, Any], rank: int, message: str, stack: ExitStack
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        engine_of(stack, adapted(rank=rank), served(stack, fake_vllm.Server(MODEL, **options)))


class SecondOfTwo(Processes):
    """The second of two processes: what it gathers from the first is given."""

    def __init__(self, first: Any) -> None:
        super().__init__(rank=1, size=2)
        self.first = first

    def gather(self, value: Any) -> list[Any]:
        return [(None, None) if isinstance(value, tuple) else self.first(), value]


def test_other_processes_request_the_adapter_of_the_first(stack: ExitStack) -> None:
    server = fake_vllm.Server(MODEL, lora={})
    url = served(stack, server)
    policy = adapted()
    first = sampler_of(stack, policy, url)
    assert first.engine is not None
    second = sampler_of(stack, adapted(), url, SecondOfTwo(lambda: first.engine and first.engine.weights_name))
    change(policy)
    first.sync_weights()
    second.sync_weights()
    assert second.engine is not None
    assert difference(second.engine, policy, second.turn_end).most < 1e-4
    second.close()
    assert list(server.core.adapters) == [first.engine.weights_name]


def test_an_adapter_that_a_server_refuses_leaves_nothing_behind(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = adapted()
    server = fake_vllm.Server(MODEL, lora={})
    sampler = sampler_of(stack, policy, served(stack, server))
    engine = sampler.engine
    assert isinstance(engine, VllmServerEngine)
    before = engine.weights_name

    async def refuses(*arguments: Any) -> None:
        raise EngineError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ServedVllm, "load_adapter", refuses)
        with pytest.raises(EngineError, match="no room"):
            sampler.sync_weights()
    assert engine.weights_name == before
    engine.submit([request(policy, 0)])
    assert all_of(engine) == [0]
    sampler.close()
    assert not server.core.adapters


# ---------------------------------------------------------------- files


def interrupt() -> None:
    """As Ctrl-C does."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)


def test_only_the_process_that_sends_weights_has_a_folder(stack: ExitStack, policy: Policy, tmp_path: Path) -> None:
    url = served(stack, fake_vllm.Server(MODEL))
    engine = engine_of(stack, policy, url, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    engine.update_weights(policy.model.named_parameters())
    assert list(tmp_path.iterdir())
    engine.close()
    assert not list(tmp_path.iterdir())


def test_files_outlive_an_interruption_until_servers_have_read_them(
    stack: ExitStack, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(stack, policy, served(stack, fake_vllm.Server(MODEL)), folder=tmp_path)
    read: list[bool] = []

    async def slow(server: ServedVllm, folder: Path, seconds: float) -> None:
        interrupt()
        await asyncio.sleep(0.5)
        read.append((folder / "model-00001.safetensors").exists())

    monkeypatch.setattr(ServedVllm, "load_weights", slow)
    with pytest.raises(KeyboardInterrupt):
        engine.update_weights(policy.model.named_parameters())
    assert not read
    engine.close()
    assert read == [True]
    assert not list(tmp_path.iterdir())


def test_files_are_removed_after_a_time_whatever_servers_do(
    stack: ExitStack, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(stack, policy, served(stack, fake_vllm.Server(MODEL)), folder=tmp_path)

    async def never(server: ServedVllm, folder: Path, seconds: float) -> None:
        interrupt()
        await asyncio.sleep(600)

    monkeypatch.setattr(ServedVllm, "load_weights", never)
    monkeypatch.setattr(vllm_server, "READ_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt):
        engine.update_weights(policy.model.named_parameters())
    engine.close()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_wait_cancels_what_it_waits_for() -> None:
    loop, ended = EventLoop("test"), threading.Event()

    async def long() -> None:
        await asyncio.sleep(0.2)  # the main thread waits by now
        interrupt()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        loop.run(long())
    assert ended.wait(30)
    loop.close()


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("a file")
    with pytest.raises(EngineError, match=rf"can't be written to {tmp_path}/none .*set TMPDIR to another folder"):
        WeightFiles(tmp_path / "none")


def test_no_start_removes_the_folder_of_another(tmp_path: Path) -> None:
    def starts() -> list[bool]:
        found = []
        for _ in range(40):
            files = WeightFiles(tmp_path)
            files.write([("a", torch.ones(2))], None)
            found.append(len(list(files.folder.iterdir())) == 1)
            files.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(starts) for _ in range(8)]]
    assert all(all(each) for each in found)
    assert not list(tmp_path.iterdir())


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("served_as", ["bfloat16", "float16", "float32", "unknown"])
def test_matrices_are_rounded_once_and_only_to_what_the_servers_hold(
    served_as: str, stack: ExitStack, policy: Policy, tmp_path: Path
) -> None:
    url = served(stack, fake_vllm.Server(MODEL, dtype=f"torch.{served_as}"))
    engine = engine_of(stack, policy, url, folder=tmp_path)
    engine.update_weights(policy.model.named_parameters())
    (folder,) = tmp_path.glob("*/*")
    narrow = getattr(torch, served_as, torch.float32)
    for name, weight in policy.model.named_parameters():
        written = tensors_in(folder)[name]
        assert written.dtype == (narrow if weight.ndim > 1 else torch.float32)
        assert torch.equal(written, weight.detach().to(written.dtype))


def test_servers_of_two_precisions_get_the_weights_as_they_are(
    stack: ExitStack, policy: Policy, tmp_path: Path
) -> None:
    url = served(stack, fake_vllm.Server(MODEL, dtype="torch.bfloat16"), fake_vllm.Server(MODEL))
    engine = engine_of(stack, policy, url, folder=tmp_path)
    engine.update_weights(policy.model.named_parameters())
    assert {tensor.dtype for tensor in tensors_in(next(tmp_path.glob("*/*"))).values()} == {torch.float32}


def test_narrow_weights_are_not_made_wider(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path)
    folder = files.write([("a", torch.ones(2, 2, dtype=torch.bfloat16)), ("b", torch.ones(2, 2).int())], torch.float16)
    assert {name: tensor.dtype for name, tensor in tensors_in(folder).items()} == {
        "a": torch.bfloat16,
        "b": torch.int32,
    }


def test_large_models_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FILE_BYTES == 2**30
    monkeypatch.setattr(weight_files, "FILE_BYTES", 100)
    weights = {f"w{n}": torch.full((4, 4), float(n)) for n in range(3)} | {"long": torch.ones(400)}
    weights["tied"] = weights["long"]
    folder = WeightFiles(tmp_path).write(weights.items(), None)
    assert len(list(folder.iterdir())) == 5
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tensors_in(folder).items())
    assert tensors_in(folder).keys() == weights.keys()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    files = WeightFiles(tmp_path)
    monkeypatch.setattr(weight_files, "save_file", full)
    with pytest.raises(EngineError, match=rf"can't be written to {tmp_path}.*No space left.*TMPDIR"):
        files.write([("a", torch.ones(2))], None)
    assert not list(files.folder.iterdir())
    monkeypatch.undo()
    files.close()
    assert not files.folder.exists()


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, torch
from algorithms.common.rollout.engines.weight_files import WeightFiles
files = WeightFiles(pathlib.Path({str(tmp_path)!r}))
files.write([("a", torch.ones(2))], None)
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    (abandoned,) = (path for path in tmp_path.iterdir() if path.is_dir())
    live = WeightFiles(tmp_path)
    assert not abandoned.exists()
    other = WeightFiles(tmp_path)
    assert live.folder.is_dir()
    live.close()
    other.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hosts", "needed", "temporary", "memory"),
    [
        (["127.0.0.1", "localhost", "::1"], 1, False, True),
        (["127.0.0.1"], 2**60, False, False),  # no room
        (["127.0.0.1", "10.0.0.2"], 1, False, False),
        (["node-7"], 1, False, False),
        (["127.0.0.1"], 1, True, False),
    ],
)
def test_weights_are_handed_over_in_memory_on_this_machine(
    hosts: list[str],
    needed: int,
    temporary: bool,
    memory: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_files, "MEMORY", tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)
    if temporary:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert handover_folder(hosts, needed) == (tmp_path if memory else None)
