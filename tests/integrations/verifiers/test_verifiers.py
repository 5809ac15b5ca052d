"""verifiers: vf-eval against a real endpoint; rewards and per-token advantages equal those of local rollouts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers.v1", reason="verifiers is not installed: pip install igsearch[verifiers]")

import verifiers.v1 as vf
from adapters import LOCAL_ALGORITHMS, ROLLOUT_SETTINGS, local_buffer, local_episode, local_rows
from fastapi import FastAPI, Request
from models import bundled_policy
from paths import ROOT, TESTS
from policy_server import PolicyServer, chat_completion
from services import serving
from verifiers.v1.clients import EvalClientConfig, ModelContext
from verifiers.v1.types import SamplingConfig

from igsearch_env.errors import ConfigurationError
from igsearch_env.trajectory import Trajectory
from integrations.credit import load_episode
from integrations.verifiers import assign_advantages, episode_of
from integrations.verifiers.prime_rl import install

PACKAGE = ROOT / "integrations" / "verifiers" / "environment"


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def replay_app() -> FastAPI:
    """A chat endpoint that writes the turns of the local rollouts: a session plays the next one of its question."""
    app, lock = FastAPI(), threading.Lock()
    waiting: dict[str, list[Trajectory]] = {}
    for trajectory in local_buffer().trajectories:
        waiting.setdefault(trajectory.prompt, []).append(trajectory)
    played: dict[str, Trajectory] = {}

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any], request: Request) -> dict[str, Any]:
        session = request.headers["x-session-id"]
        with lock:
            if session not in played:
                played[session] = waiting[body["messages"][0]["content"]].pop(0)
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        return chat_completion(played[session].turns[turns].text)

    return app


def play(base_url: str, ids: set[str], rollouts: int, **settings: Any) -> list[Any]:
    """Episodes of the environment as `load_environment` makes it."""
    from igsearch_verifiers import load_environment

    context = ModelContext(
        model="bundled",
        client=EvalClientConfig(base_url=f"{base_url}/v1", api_key_var="OPENAI_API_KEY"),
        sampling=SamplingConfig(),
    )

    async def run() -> list[Any]:
        env = load_environment(**settings)
        tasks = [task for task in env.taskset if task.data.id in ids]
        assert len(tasks) == len(ids)
        async with env.serving():
            slots = [slot for task in tasks for slot in env.slots(task, rollouts)]
            return list(await asyncio.gather(*(env.run_slot(slot, context) for slot in slots)))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def replayed() -> list[tuple[Any, int]]:
    """Episodes of verifiers, each with the number of the local trajectory that it repeats, in the order of those."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(PACKAGE))
    patch.setenv("OPENAI_API_KEY", "none")
    buffer = local_buffer()
    with serving(replay_app()) as base_url:
        episodes = play(base_url, {g.question.id for g in buffer.groups}, 4, **ROLLOUT_SETTINGS)
    patch.undo()
    left = list(range(len(buffer.trajectories)))
    pairs = []
    for episode in episodes:
        assert episode.ok, (episode.errors, [t.errors for t in episode.traces])
        transcript = episode_of(episode.traces[0]).transcript()
        number = next(n for n in left if buffer.trajectories[n].transcript() == transcript)
        left.remove(number)
        pairs.append((episode, number))
    return sorted(pairs, key=lambda pair: pair[1])


def with_tokens(episode: Any, trajectory: Trajectory, scaffold: int = 2) -> Any:
    """The tokens that verifiers' train client records: each node's own, an assistant's behind its `scaffold`."""
    episode = episode.model_copy(deep=True)
    turns = iter(trajectory.turns)
    for node in episode.traces[0].nodes:
        if node.sampled:
            turn = next(turns)
            node.token_ids = [0] * scaffold + list(turn.completion_ids)
            node.mask = [False] * scaffold + [True] * len(turn.completion_ids)
            node.logprobs = list(turn.logprobs)
    return episode


def test_rewards_are_those_of_the_local_environment(replayed: list[tuple[Any, int]]) -> None:
    for episode, number in replayed:
        trace, local = episode.traces[0], local_buffer().trajectories[number]
        assert trace.reward == local.outcome
        assert [t.reward for t in episode_of(trace).turns] == [t.reward for t in local.turns]
        gains = sum(turn.reward for turn in local.turns) - local.outcome
        assert trace.rewards["search_rewards"].score == pytest.approx(gains, abs=1e-12)
        assert trace.metrics["searches"] == local.searches
        assert [n.message.content for n in trace.nodes] == [
            local.prompt,
            *(text for turn in local.turns for text in (turn.text, turn.observation) if text),
        ]


@pytest.mark.parametrize("name", LOCAL_ALGORITHMS)
def test_advantages_equal_those_of_the_local_buffer(replayed: list[tuple[Any, int]], name: str) -> None:
    episodes = [with_tokens(e, local_buffer().trajectories[n]) for e, n in replayed]
    assign_advantages(episodes, name, bundled_policy().tokenizer.hf_tokenizer)
    for episode, row in zip(episodes, local_rows(name, local_buffer()), strict=True):
        trace = episode.traces[0]
        values = [value for node in trace.nodes for value in node.advantages or []]
        assert values == row.advantages[row.mask].tolist()
        (branch,) = trace.branches
        assert len(branch.advantages) == len(branch.token_ids)
        assert all(node.advantages is None for node in trace.nodes if not node.sampled)


def test_traces_that_are_not_trained_get_none(replayed: list[tuple[Any, int]]) -> None:
    tokenizer = bundled_policy().tokenizer.hf_tokenizer
    episodes = [with_tokens(e, local_buffer().trajectories[n]) for e, n in replayed[:4]]
    episodes[0].traces[0].ok = False
    episodes[1].traces[0].agent.trainable = False
    assign_advantages([*episodes, replayed[4][0]], "grpo", tokenizer)
    assert [any(n.advantages for n in e.traces[0].nodes) for e in episodes] == [False, False, True, True]
    assign_advantages([], "grpo", tokenizer)


def test_prime_rl_gets_the_same_advantages(replayed: list[tuple[Any, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table and the base class are stand-ins with prime-rl's names; prime-rl itself needs a GPU to be installed."""
    algo, base = types.ModuleType("prime_rl.orchestrator.algo"), types.ModuleType("prime_rl.orchestrator.algo.base")
    base.Algorithm = type("Algorithm", (), {"__init__": lambda self, config, pool: None})  # type: ignore[attr-defined]
    algo.ALGORITHM_CLASSES = {"grpo": None}  # type: ignore[attr-defined]
    for name, module in {"prime_rl": types.ModuleType("prime_rl"), algo.__name__: algo, base.__name__: base}.items():
        monkeypatch.setitem(sys.modules, name, module)
    install("ig_grpo", bundled_policy().tokenizer.hf_tokenizer)
    group = [with_tokens(e, local_buffer().trajectories[n]) for e, n in replayed[:4]]
    asyncio.run(algo.ALGORITHM_CLASSES["grpo"](None, None).score_group(group))
    for episode, row in zip(group, local_rows("ig_grpo", local_buffer()), strict=False):
        values = [value for node in episode.traces[0].nodes for value in node.advantages or []]
        assert values == row.advantages[row.mask].tolist()


def test_tokens_of_another_model_are_refused(replayed: list[tuple[Any, int]]) -> None:
    episode, number = next((e, n) for e, n in replayed if local_buffer().trajectories[n].searches)
    tokenizer = bundled_policy().tokenizer.hf_tokenizer
    wrong = with_tokens(episode, local_buffer().trajectories[number])
    for node in wrong.traces[0].nodes:
        node.token_ids = [token + 1 for token in node.token_ids]
    with pytest.raises(ConfigurationError, match="the tokenizer of the model"):
        assign_advantages([wrong], "grpo", tokenizer)
    fewer = with_tokens(episode, local_buffer().trajectories[number])
    next(node for node in fewer.traces[0].nodes if node.sampled).mask = []
    with pytest.raises(ConfigurationError, match="turns for an episode of"):
        assign_advantages([fewer], "grpo", tokenizer)
    other = with_tokens(episode, local_buffer().trajectories[number])
    other.traces[0].info.clear()
    with pytest.raises(ConfigurationError, match="play it with the environment"):
        assign_advantages([other], "grpo", tokenizer)


def test_a_limit_of_the_agent_ends_the_episode() -> None:
    from igsearch_verifiers import load_environment

    buffer = local_buffer()
    trajectory = max(buffer.trajectories, key=lambda t: len(t.turns))
    env = load_environment(**ROLLOUT_SETTINGS)
    env._agent_specs["agent"].max_turns = 1
    client = EvalClientConfig(api_key_var="OPENAI_API_KEY")

    async def run(base_url: str) -> Any:
        context = ModelContext(
            model="bundled",
            client=client.model_copy(update={"base_url": f"{base_url}/v1"}),
            sampling=SamplingConfig(),
        )
        task = next(task for task in env.taskset if task.data.id == trajectory.question.id)
        async with env.serving():
            return await env.run_episode(task, context)

    with serving(replay_app()) as base_url:
        episode = asyncio.run(run(base_url))
    assert episode.traces[0].is_truncated
    assert episode_of(episode.traces[0]).stop_reason == "context_full"
    assert episode.traces[0].reward == 0.0


def test_vf_eval_plays_the_bundled_policy(tmp_path: Path) -> None:
    """The command itself, against a real model; rewards are those of the same turns played locally."""
    command = [
        str(Path(sys.executable).parent / "vf-eval"),
        "igsearch-verifiers",
        "--env.taskset.search.prompt",
        "bare",
    ]
    command += [
        "--model",
        "bundled",
        "--client.api-key-var",
        "OPENAI_API_KEY",
        "-n",
        "3",
        "-r",
        "2",
        "-o",
        str(tmp_path),
    ]
    command += ["--env.taskset.search.max-searches", "3", "--env.agent.sampling.max-tokens", "16"]
    command += ["--no-push", "--no-rich"]
    paths = os.pathsep.join(map(str, (ROOT, TESTS, PACKAGE)))
    server = PolicyServer()
    with serving(server.app) as base_url:
        done = subprocess.run(
            [*command, "--client.base-url", f"{base_url}/v1"],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("traces.jsonl")
    traces = [trace for line in file.read_text().splitlines() for trace in json.loads(line)["traces"]]
    assert len(traces) == 6
    assert server.requests[0]["max_tokens"] == 16
    for trace in traces:
        assert trace["ok"]
        played = load_episode(trace["info"]["igsearch_episode"])
        local = local_episode(
            played.question, [turn.text for turn in played.turns], prompt="bare", seed=0, max_searches=3
        )
        assert [turn.reward for turn in played.turns] == [turn.reward for turn in local.turns]
        assert trace["rewards"]["outcome"]["score"] == local.outcome


def test_wrong_settings_are_refused() -> None:
    from igsearch_verifiers import load_environment

    with pytest.raises(Exception, match="max_searches"):
        list(load_environment(max_searches=0).taskset)
    with pytest.raises(Exception, match="topk"):
        load_environment(topk=3)
    assert issubclass(type(load_environment()), vf.Env)
