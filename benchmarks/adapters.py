"""Adapters: environment steps per second over an environment of the other library, in one run each.

    python -m benchmarks.adapters --only skyrl       in an environment with skyrl-gym
    python -m benchmarks.adapters --only openenv     with openenv
    python -m benchmarks.adapters --only verifiers   with verifiers

Both sides play the same episodes, without information gain: four searches and an answer. Where the other library has
no search environment that runs without a service of its own, the ratio shows what ours costs above its least.

skyrl       its own search environment; both ask the same HTTP stub, which always returns the same three passages
openenv     an environment of the library's template, which returns the same text without a search
verifiers   an environment of the library with the same agent, which returns the same text without a search; the model
            is an HTTP stub. Its own search environments need servers of their own (a vector database, MCP)
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import tyro
from rich.console import Console

from benchmarks.measure import Line, interleaved, print_section, ratio
from benchmarks.stub_search import PASSAGES, HttpRetriever, stub_server
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from integrations.batching import StepBatcher
from integrations.episodes import dataset_row
from retrievers import DictionaryRetriever, Retriever

PROTOCOL = make_protocol()
TURNS = [*(PROTOCOL.write(Search(f"query {i}")) for i in range(4)), PROTOCOL.write(Answer("nothing"))]
SHOWN = PROTOCOL.observation(PASSAGES)
Library = Literal["skyrl", "openenv", "verifiers"]


def opened(retriever: Retriever, episodes: int) -> StepBatcher:
    """A stepper over made-up questions."""
    questions = [Question(f"q{i}", f"Who wrote book {i}?", ("something",), "made up") for i in range(episodes)]
    return StepBatcher(EpisodeStepper(questions, retriever, None, EpisodeRules()))


def in_process(episodes: int) -> StepBatcher:
    """A stepper whose search is a look-up."""
    return opened(DictionaryRetriever({f"query {i}": PASSAGES for i in range(4)}), episodes)


def compared(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    steps: int,
    repeats: int,
    target: float | None = None,
) -> Line:
    """Our steps per second over theirs: the median of the rounds, each of which runs both."""
    times = interleaved({"theirs": theirs, "ours": ours}, repeats)
    rates = {side: steps / statistics.median(seconds) for side, seconds in times.items()}
    detail = "; ".join(f"{side}: {rate:,.0f} steps/s" for side, rate in rates.items())
    return Line(name, ratio(times["theirs"], times["ours"]), target=target, detail=detail)


def skyrl(repeats: int, episodes: int = 128) -> list[Line]:
    """SkyRL-gym's search environment and ours, with a new environment per episode, in one thread and in 32."""
    from benchmarks.peer_driver import skyrl_gym as driver
    from integrations.skyrl import IGSearchTextEnv

    lines = []
    with stub_server() as url:
        # One connection, as the batcher makes one call at a time.
        batcher = opened(HttpRetriever(url), episodes)
        rows = [dataset_row(PROTOCOL, question) for question in batcher.stepper.questions]

        def episode(row: dict[str, Any]) -> None:
            env = IGSearchTextEnv(extras=row, batcher=batcher)
            env.init(row["prompt"])
            for number, turn in enumerate(TURNS, start=1):
                output = env.step(turn)
                assert output["done"] == (number == len(TURNS))
                assert output["done"] or output["observations"][0]["content"].startswith(SHOWN)

        for threads in (1, 32):
            theirs = driver(url, threads, [row["prompt"][0]["content"] for row in rows], TURNS, PASSAGES[-1].text)
            with ThreadPoolExecutor(threads) as pool:
                name = f"skyrl-gym: steps/s over its search environment, same stub, {threads} threads"
                ours = (lambda: list(pool.map(episode, rows))) if threads > 1 else (lambda: list(map(episode, rows)))
                lines.append(compared(name, ours, theirs, episodes * len(TURNS), repeats, target=1.0))
    return lines


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application, served in a thread."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def openenv(repeats: int, sessions: int = 32) -> list[Line]:
    """Seconds to open 32 sessions, and steps per second in all of them."""
    from openenv.core.env_server.http_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import State

    from integrations.openenv import IGSearchClient, SearchAction, SearchObservation
    from integrations.openenv.server.app import make_app

    class Constant(Environment):  # type: ignore[misc] # untyped base class
        SUPPORTS_CONCURRENT_SESSIONS = True

        def reset(self, *_: Any, **__: Any) -> SearchObservation:
            return SearchObservation(text="Who?")

        def step(self, action: SearchAction, *_: Any, **__: Any) -> SearchObservation:
            return SearchObservation(text=SHOWN, reward=0.0)

        @property
        def state(self) -> State:
            return State()

    async def play(url: str, times: list[float]) -> None:
        clients = [IGSearchClient(base_url=url) for _ in range(sessions)]
        start = time.perf_counter()
        await asyncio.gather(*(client.connect() for client in clients))
        await asyncio.gather(*(client.reset(index=number) for number, client in enumerate(clients)))
        times.append(time.perf_counter() - start)
        for turn in TURNS:
            await asyncio.gather(*(client.step(SearchAction(text=turn)) for client in clients))
        await asyncio.gather(*(client.close() for client in clients))

    opening: list[float] = []
    their_app = create_app(Constant, SearchAction, SearchObservation, max_concurrent_envs=sessions)
    with served(make_app(in_process(sessions), sessions)) as url, served(their_app) as their_url:
        line = compared(
            "openenv: steps/s over an environment that returns a constant, sessions included",
            lambda: asyncio.run(play(url, opening)),
            lambda: asyncio.run(play(their_url, [])),
            sessions * len(TURNS),
            repeats,
        )
    return [Line(f"openenv: open and reset {sessions} sessions", max(opening), "s", 2.0, at_most=True), line]


def verifiers(repeats: int, episodes: int = 16) -> list[Line]:
    """Episodes of our environment and of one that answers with a constant, by the same agent and the same stub."""
    from fastapi import FastAPI
    from verifiers.v1.clients import EvalClientConfig, ModelContext
    from verifiers.v1.types import SamplingConfig

    from integrations.verifiers import IGSearchEnv, IGSearchEnvConfig, IGSearchTasksetConfig

    app, batcher = FastAPI(), in_process(episodes)

    @app.post("/v1/chat/completions")
    async def complete(body: dict[str, Any]) -> dict[str, Any]:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        choice = {"index": 0, "message": {"role": "assistant", "content": TURNS[turn]}, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}

    # verifiers rebuilds configurations from plain values, so a subclass would be lost.
    IGSearchTasksetConfig.opened = lambda self: batcher  # type: ignore[method-assign]

    class Constant(IGSearchEnv):
        async def run(self, task: Any, agents: Any) -> None:
            async with agents.agent.interaction(task.defer_scoring()) as chat:
                await chat.turn()
                for _ in TURNS[1:]:
                    await chat.turn(SHOWN)

    async def play(kind: type[IGSearchEnv], url: str) -> None:
        env = kind(IGSearchEnvConfig(taskset=IGSearchTasksetConfig()))
        client = EvalClientConfig(base_url=f"{url}/v1", api_key_var="HOME")
        context = ModelContext(model="stub", client=client, sampling=SamplingConfig())
        async with env.serving():
            played = await asyncio.gather(*(env.run_episode(task, context) for task in env.taskset))
        assert all(episode.ok for episode in played), played[0]

    with served(app) as url:
        name = "verifiers: steps/s over an environment that returns a constant"
        steps = episodes * len(TURNS)
        return [
            compared(
                name,
                lambda: asyncio.run(play(IGSearchEnv, url)),
                lambda: asyncio.run(play(Constant, url)),
                steps,
                repeats,
            )
        ]


def main(only: tuple[Library, ...] = ("skyrl", "openenv", "verifiers"), repeats: int = 5) -> None:
    """Measure.

    Args:
        only: The libraries to compare with, which must be installed.
        repeats: Rounds of each comparison.
    """
    for library in only:
        start = time.perf_counter()
        found = {"skyrl": skyrl, "openenv": openenv, "verifiers": verifiers}[library](repeats)
        print_section(Console(width=200), library, found, time.perf_counter() - start)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
