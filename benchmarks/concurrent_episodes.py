"""Asynchronous episodes (`AsyncIGSearch`) against the same episodes in lockstep, with a search service 50 ms away.

    python -m benchmarks.concurrent_episodes

256 episodes run at once, and a new one begins where one ends. In each turn a policy thinks for a time of its own
(exponential, as the lengths of what it writes differ), then searches; the fifth turn answers. Policies think at the
same time, as on a server that generates for all of them. Information gain is computed by the UnigramScorer. The sides:

    asynchronous      each episode steps when its policy is ready; what waits shares a retrieval call
    vector env        one `IGSearchVectorEnv`: all policies think, then one call steps all episodes
    one by one        256 `IGSearchEnv`: all policies think, then each environment is stepped by itself

In lockstep every round lasts as long as the slowest of 256 policies, 6.1 mean times for exponential ones. So the ratio
depends on the thinking time: with none, lockstep loses nothing. Ended episodes are reset at once on all sides.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import tyro

from benchmarks.measure import Line
from igsearch_env import Answer, AsyncIGSearch, IGSearchEnv, IGSearchVectorEnv, Question, Search
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import RemoteRetriever, Retriever
from retrievers.random_streams import random_stream

EPISODES = 256
SEARCHES = 4  # of an episode, before its answer
LATENCY = 0.05  # seconds
THINKING = (0.0, 0.1, 1.0)  # mean seconds of a turn
WINDOW = 10.0  # seconds in which asynchronous steps are counted
QUESTIONS = bundled_world().questions["train"]

Act = Search | Answer


def lines(repeats: int = 1) -> list[Line]:
    """Steps per second of the three sides, and their ratios; the median of `repeats` rounds is reported."""
    found = []
    with search_service() as url, closing(RemoteRetriever(url, passages=bundled_world().passages)) as retriever:
        for mean in THINKING:
            sides: dict[str, Callable[[float], float]] = {
                "asynchronous": lambda mean: asyncio.run(asynchronous(retriever, mean)),
                "vector env": lambda mean: vector_env(retriever, mean),
                "one by one": lambda mean: one_by_one(retriever, mean),
            }
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(repeats):
                for name, side in sides.items():
                    rates[name].append(side(mean))
            detail = ", ".join(f"{name} {np.median(rate):.0f}" for name, rate in rates.items())
            for name in ("vector env", "one by one"):
                ratios = [a / b for a, b in zip(rates["asynchronous"], rates[name], strict=True)]
                found.append(
                    Line(
                        f"{EPISODES} asynchronous episodes over {name}, thinking {mean:g} s",
                        float(np.median(ratios)),
                        target=5.0 if mean == max(THINKING) else None,
                        detail=f"steps/s: {detail}",
                    )
                )
    return found


def draws(place: int, mean: float) -> Iterator[tuple[Question, int, float, Act]]:
    """Of one of the concurrent places without end: the question, the turn, the time to think and the action."""
    rng = random_stream("benchmark of concurrent episodes", place)
    while True:
        question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        for turn in range(SEARCHES + 1):
            action = Search(f"{question.text} {turn}") if turn < SEARCHES else Answer(question.golden_answers[0])
            yield question, turn, float(rng.exponential(mean)) if mean else 0.0, action


async def asynchronous(retriever: Retriever, mean: float) -> float:
    """Steps per second in a window, after every place has taken two steps on average."""
    counts = [0]

    async def play(place: int) -> None:
        env = igsearch.env()
        for question, turn, thinking, action in draws(place, mean):
            if turn == 0:
                await env.areset(options={"question": question})
            await asyncio.sleep(thinking)
            await env.astep(action)
            counts[0] += 1

    async with AsyncIGSearch(QUESTIONS, retriever) as igsearch:
        tasks = [asyncio.create_task(play(place)) for place in range(EPISODES)]
        while counts[0] < 2 * EPISODES:
            await asyncio.sleep(0.01)
        start, before = time.perf_counter(), counts[0]
        await asyncio.sleep(WINDOW)
        rate = (counts[0] - before) / (time.perf_counter() - start)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return rate


def vector_env(retriever: Retriever, mean: float) -> float:
    """Steps per second of two episodes of each place, in lockstep."""
    envs = IGSearchVectorEnv(EPISODES, QUESTIONS, retriever, autoreset_mode="Disabled")
    places = [draws(place, mean) for place in range(EPISODES)]
    rounds = 2 * (SEARCHES + 1)
    start = time.perf_counter()
    for _ in range(rounds):
        turns = [next(place) for place in places]
        if turns[0][1] == 0:
            envs.reset(options={"questions": [question for question, *_ in turns]})
        time.sleep(max(thinking for _, _, thinking, _ in turns))
        envs.step([action for *_, action in turns])
    return rounds * EPISODES / (time.perf_counter() - start)


def one_by_one(retriever: Retriever, mean: float) -> float:
    """The same for one environment after another; one round, since each takes long: of searches, as most are."""
    envs = [IGSearchEnv(QUESTIONS, retriever) for _ in range(EPISODES)]
    turns = [next(draws(place, mean)) for place in range(EPISODES)]
    for env, (question, *_) in zip(envs, turns, strict=True):
        env.reset(options={"question": question})
    start = time.perf_counter()
    for env, (*_, action) in zip(envs, turns, strict=True):
        env.step(action)
    searching = (time.perf_counter() - start) * SEARCHES / (SEARCHES + 1)  # answers need no search
    return EPISODES / (max(thinking for _, _, thinking, _ in turns) + searching)


# ---------------------------------------------------------------- the search service


@contextmanager
def search_service() -> Iterator[str]:
    """BM25 over the bundled world in a process of its own, which waits for `LATENCY` with each request; its address."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        process.terminate()
        process.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(LATENCY)
        found: Sequence[Sequence[Any]] = bundled_retriever().search(asked["queries"], asked["topk"])
        result = [
            [{"document": {"id": p.id, "contents": f"{p.title}\n{p.text}"}, "score": p.score} for p in passages]
            for passages in found
        ]
        body = json.dumps({"result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    pipe.send(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} (target: {measured.target}) {measured.detail}")
