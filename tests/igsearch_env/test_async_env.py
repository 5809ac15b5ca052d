"""Asynchronous episodes: the numbers of single environments, shared calls, errors and cancellation."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers import (
    PASSAGES,
    QUESTIONS,
    CountingRetriever,
    FailingRetriever,
    RecordingScorer,
    search,
    small_retriever,
)

from igsearch_env import Answer, AsyncIGSearch, AsyncIGSearchEnv, ConfigurationError, IGSearchEnv, Question, Search
from igsearch_env.step_queue import APART_SECONDS, apart
from retrievers import Passage, QueryError, RetrievalError, Retriever

Played = list[tuple[Any, ...]]
PLAYS: list[list[Any]] = [
    [search("Alan Brin"), Search("Tolona"), "hm", Answer("Tolona")],
    ["hm", search("Mira Sorel"), Answer("botanist")],
    [Search(""), search("zzz"), Search("Vexo Glass"), "no answer"],
    [Answer("Ostue")],
]


def shared(**options: Any) -> AsyncIGSearch:
    """Asynchronous episodes over the small world."""
    return AsyncIGSearch(**({"questions": QUESTIONS, "retriever": small_retriever(), "top_k": 2} | options))


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """The result of a coroutine in an event loop of its own, which must not take long."""

    async def limited() -> Any:
        return await asyncio.wait_for(main(), 60)

    return asyncio.run(limited())


async def play(env: AsyncIGSearchEnv, question: Question, actions: Sequence[Any], pause: float = 0.0) -> Played:
    """What the environment returned in an episode."""
    found: Played = [await env.areset(options={"question": question})]
    for action in actions:
        await asyncio.sleep(pause)
        found.append(await env.astep(action))
    return found


class GatedRetriever(CountingRetriever):
    """Waits in each search until it may go on."""

    def __init__(self, inner: Retriever) -> None:
        super().__init__(inner)
        self.entered, self.gate = threading.Event(), threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.entered.set()
        assert self.gate.wait(30)
        return super().search(queries, k)


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
@pytest.mark.parametrize("source", ["corpus", "batch"])
@pytest.mark.parametrize("max_batch", [1, 3, 256])
def test_equals_single_environments(protocol: str, source: str, max_batch: int) -> None:
    options: dict[str, Any] = {
        "protocol": protocol,
        "information_gain": {"random_source": source, "dead_zone": 0.0},
        "max_searches": 3,
        "seed": 5,
    }
    expected = []
    for question, actions in zip(QUESTIONS * 3, PLAYS * 3, strict=True):
        env = IGSearchEnv(QUESTIONS, small_retriever(), top_k=2, **options)
        expected.append([env.reset(options={"question": question}), *map(env.step, actions)])

    async def main() -> list[Played]:
        async with shared(max_batch=max_batch, **options) as igsearch:
            plays = zip(QUESTIONS * 3, PLAYS * 3, range(12), strict=True)
            return await asyncio.gather(*(play(igsearch.env(), q, a, 0.001 * (n % 4)) for q, a, n in plays))

    found = run(main)
    assert found == expected
    assert sum("information_gain" in step[4] for played in found for step in played[1:]) >= 12


def test_seeds_draw_the_questions_of_a_single_environment() -> None:
    single = IGSearchEnv(QUESTIONS, small_retriever(), top_k=2)
    expected = [single.reset(seed=4 if not n else None)[0] for n in range(6)]

    async def main() -> list[str]:
        async with shared() as igsearch:
            env = igsearch.env()
            return [(await env.areset(seed=4 if not n else None))[0] for n in range(6)]

    assert run(main) == expected


def test_steps_that_wait_share_one_retrieval_and_one_scoring_call() -> None:
    retriever, scorer = GatedRetriever(small_retriever()), RecordingScorer()

    async def main() -> None:
        async with shared(retriever=retriever, scorer=scorer, max_batch=4) as igsearch:
            plays = [asyncio.create_task(play(igsearch.env(), QUESTIONS[0], [Search(f"Karith {n}")])) for n in range(9)]
            while not retriever.entered.is_set():
                await asyncio.sleep(0.001)  # the loop runs while the thread waits
            late = asyncio.create_task(play(igsearch.env(), QUESTIONS[0], [Search("Karith 9")]))
            await asyncio.sleep(0.01)
            retriever.gate.set()
            await asyncio.gather(*plays, late)

    run(main)
    assert [len(call) for call in retriever.calls] == [4, 4, 2]
    assert [len(call) for call in scorer.calls] == [4, 4, 2]
    assert sorted(query for call in retriever.calls for query in call) == [f"Karith {n}" for n in range(10)]


def test_what_needs_no_search_does_not_wait() -> None:
    retriever = GatedRetriever(small_retriever())

    async def main() -> None:
        async with shared(retriever=retriever) as igsearch:
            slow = asyncio.create_task(play(igsearch.env(), QUESTIONS[0], [Search("Karith")]))
            while not retriever.entered.is_set():
                await asyncio.sleep(0.001)
            quick = await play(igsearch.env(), QUESTIONS[0], ["hm", Answer("Tolona")])
            assert quick[-1][1] == 1.0
            assert not slow.done()
            retriever.gate.set()
            await slow

    run(main)


# ---------------------------------------------------------------- failures


class HalfFailing(FailingRetriever):
    """Fails the queries with "fail" in them, and says which."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        found = [None if "fail" in query else self.inner.search([query], k)[0] for query in queries]
        if None in found:
            raise RetrievalError(self.MESSAGE, found)
        return [passages for passages in found if passages is not None]


@pytest.mark.parametrize("kind", [FailingRetriever, HalfFailing])
def test_a_retrieval_failure_ends_the_episode_that_it_hit_and_no_other(kind: type[FailingRetriever]) -> None:
    queries = ["Karith", "fail", "Ostue", "Lurm", "", "fail too", "Tolona"]

    async def main() -> list[Played]:
        async with shared(retriever=kind(small_retriever())) as igsearch:
            return await asyncio.gather(*(play(igsearch.env(), QUESTIONS[0], [Search(q)]) for q in queries))

    for query, (_, (observation, reward, terminated, truncated, info)) in zip(queries, run(main), strict=True):
        assert info.get("stop_reason") == ("retrieval_failed" if "fail" in query else None)
        assert (terminated, truncated) == (False, "fail" in query)
        if "fail" in query:
            assert (observation, reward) == ("", 0.0)
        else:
            single = IGSearchEnv(QUESTIONS, small_retriever(), top_k=2)
            single.reset(options={"question": QUESTIONS[0]})
            assert single.step(Search(query))[:2] == (observation, reward)


class RaisingRetriever(CountingRetriever):
    """A mistake of the search engine, not a failure of a service."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if "bad" in queries:
            raise QueryError("the query is bad")
        return super().search(queries, k)


class RaisingScorer(RecordingScorer):
    """Can't score the second question."""

    def score(self, requests: Sequence[Any]) -> list[list[float]]:
        if any("botanist" in request.answer for request in requests):
            raise ValueError("no such answer")
        return super().score(requests)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retriever": RaisingRetriever(small_retriever()), "scorer": None}, QueryError),
        ({"scorer": RaisingScorer()}, ValueError),
    ],
    ids=["retriever", "scorer"],
)
def test_another_error_is_raised_where_it_belongs(options: dict[str, Any], error: type[Exception]) -> None:
    async def main() -> None:
        async with shared(**options) as igsearch:
            envs = [igsearch.env() for _ in range(5)]
            query = "bad" if error is QueryError else "Karith"
            plays = [
                play(env, QUESTIONS[n % 2 * (n // 3)], ["hm", Search(query if n == 3 else "Karith")])
                for n, env in enumerate(envs)
            ]
            found = await asyncio.gather(*plays, return_exceptions=True)
            assert [type(result) for result in found] == [list, list, list, error, list]
            with pytest.raises(ConfigurationError, match="was cancelled or has failed"):
                await envs[3].astep("hm")
            assert len(await play(envs[3], QUESTIONS[0], [Search("Karith")])) == 2

    run(main)


def test_a_failing_sample_ends_the_episodes_that_needed_it() -> None:
    class NoSample(CountingRetriever):
        def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
            raise RetrievalError("down")

    async def main() -> None:
        async with shared(retriever=NoSample(small_retriever()), scorer=RecordingScorer()) as igsearch:
            found, nothing = await asyncio.gather(
                play(igsearch.env(), QUESTIONS[0], [Search("Karith")]),
                play(igsearch.env(), QUESTIONS[0], [Search("")]),
            )
            assert found[1][4]["stop_reason"] == "retrieval_failed"
            assert "stop_reason" not in nothing[1][4]

    run(main)


def test_a_service_that_is_down_is_not_asked_for_each_query(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr("igsearch_env.step_queue.time.monotonic", lambda: now[0])

    def down(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        now[0] += APART_SECONDS + 1
        raise RetrievalError("timed out")

    assert all(isinstance(result, RetrievalError) for result in apart(down, range(256)))
    assert calls == [256, 128, 128]


@pytest.mark.parametrize("bad", [[], [0], [7], [3, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_parts_of_a_call(bad: list[int]) -> None:
    def call(items: Sequence[int]) -> list[int]:
        if set(items) & set(bad):
            raise RetrievalError("failed")
        return [10 * item for item in items]

    found = apart(call, range(8))
    assert [n if isinstance(result, RetrievalError) else result for n, result in enumerate(found)] == [
        n if n in bad else 10 * n for n in range(8)
    ]
    assert apart(call, []) == []


def test_other_errors_than_those_that_are_taken_apart_are_raised_at_once() -> None:
    calls = []

    def call(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise QueryError("too long") if len(items) < 8 else RetrievalError("failed")

    with pytest.raises(QueryError, match="too long"):
        apart(call, range(8), only=RetrievalError)
    assert calls == [8, 4]


def test_a_wrong_number_of_results_is_raised() -> None:
    class Short(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            return super().search(queries, k)[1:]

    async def main() -> None:
        async with shared(retriever=Short(small_retriever())) as igsearch:
            plays = [play(igsearch.env(), QUESTIONS[0], [Search("Karith")]) for _ in range(3)]
            found = await asyncio.gather(*plays, return_exceptions=True)
            assert [type(result) for result in found] == [ValueError] * 3

    run(main)


# ---------------------------------------------------------------- cancellation and closing


@pytest.mark.parametrize("when", ["waiting", "searching"])
def test_a_cancelled_step_leaves_the_others_alone(when: str) -> None:
    retriever = GatedRetriever(small_retriever())

    async def main() -> None:
        async with shared(retriever=retriever, max_batch=2) as igsearch:
            envs = [igsearch.env() for _ in range(4)]
            plays = [
                asyncio.create_task(play(env, QUESTIONS[0], [Search(f"Karith {n}")])) for n, env in enumerate(envs)
            ]
            while not retriever.entered.is_set():
                await asyncio.sleep(0.001)
            chosen = 3 if when == "waiting" else 0
            plays[chosen].cancel()
            await asyncio.sleep(0.01)
            retriever.gate.set()
            found = await asyncio.gather(*plays, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in found] == [n == chosen for n in range(4)]
            with pytest.raises(ConfigurationError, match=r"cancelled or has failed: .* await areset\(\)"):
                await envs[chosen].astep("hm")
            assert len(await play(envs[chosen], QUESTIONS[1], ["hm", Answer("botanist")])) == 3

    run(main)
    assert ("Karith 3" in [query for call in retriever.calls for query in call]) is (when == "searching")


def test_an_episode_takes_one_step_at_a_time() -> None:
    async def main() -> None:
        async with shared() as igsearch:
            env = igsearch.env()
            await env.areset(options={"question": QUESTIONS[0]})
            results = await asyncio.gather(env.astep(Search("x")), env.astep(Search("y")), return_exceptions=True)
            assert isinstance(results[1], ConfigurationError)
            assert len(env.trajectory.turns) == 1
            await env.astep(Answer("x"))

    run(main)


def test_a_reset_during_a_step_begins_a_new_episode() -> None:
    retriever = GatedRetriever(small_retriever())

    async def main() -> None:
        async with shared(retriever=retriever) as igsearch:
            env = igsearch.env()
            step = asyncio.create_task(play(env, QUESTIONS[0], [Search("Karith")]))
            while not retriever.entered.is_set():
                await asyncio.sleep(0.001)
            await env.areset(options={"question": QUESTIONS[1]})
            retriever.gate.set()
            (_, old) = await step
            assert "Karith" in old[0]
            assert (env.trajectory.question, env.trajectory.turns) == (QUESTIONS[1], [])
            assert (await env.astep(Answer("botanist")))[1] == 1.0

    run(main)


def test_closing_waits_for_the_steps_in_progress(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": p.id, "contents": f"{p.title}\n{p.text}"} for p in PASSAGES]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    async def main() -> None:
        igsearch = AsyncIGSearch(QUESTIONS, corpus=corpus, top_k=2)
        envs = [igsearch.env() for _ in range(3)]
        plays = [asyncio.create_task(play(env, QUESTIONS[0], [Search("Karith")])) for env in envs]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await igsearch.aclose()
        await igsearch.aclose()
        assert all("Karith" in played[1][0] for played in await asyncio.gather(*plays))
        for refused in (envs[0].astep("hm"), envs[0].areset()):
            with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make another"):
                await refused

    run(main)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("igsearch") and _alive(thread)]


def _alive(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


def test_one_object_serves_several_event_loops() -> None:
    igsearch = shared()
    for _ in range(2):
        assert len(run(lambda: play(igsearch.env(), QUESTIONS[0], PLAYS[0]))) == 5
    run(igsearch.aclose)


def test_a_loop_that_ends_cancels_its_steps() -> None:
    retriever = GatedRetriever(small_retriever())
    igsearch = shared(retriever=retriever)

    async def main() -> None:
        task = asyncio.create_task(play(igsearch.env(), QUESTIONS[0], [Search("Karith")]))
        while not retriever.entered.is_set():
            await asyncio.sleep(0.001)
        assert not task.done()

    run(main)
    retriever.gate.set()
    assert len(run(lambda: play(igsearch.env(), QUESTIONS[0], PLAYS[0]))) == 5
    run(igsearch.aclose)


# ---------------------------------------------------------------- refusals


def test_calls_out_of_turn_and_bad_arguments() -> None:
    async def main() -> None:
        async with shared(json_info=True) as igsearch:
            env = igsearch.env()
            with pytest.raises(gymnasium.error.ResetNeeded, match="areset"):
                await env.astep("hm")
            with pytest.raises(gymnasium.error.ResetNeeded, match="areset"):
                _ = env.trajectory
            with pytest.raises(ConfigurationError, match=r"'x'.*must be a Question.*Question\.from_dict"):
                await env.areset(options={"question": "x"})
            await env.areset(options={"question": QUESTIONS[0]})
            with pytest.raises(ConfigurationError, match="is a int: it must be a string"):
                await env.astep(7)  # type: ignore[arg-type]
            assert json.dumps((await env.astep(Search("Karith")))[4])
            assert env.action_space.contains(Search("x"))
            await env.astep(Answer("x"))
            with pytest.raises(gymnasium.error.ResetNeeded, match=r"answered.*areset"):
                await env.astep("hm")

    run(main)
    with pytest.raises(ConfigurationError, match="max_batch=0"):
        shared(max_batch=0)


def test_attempts() -> None:
    async def main() -> Played:
        async with shared(attempts=2) as igsearch:
            return await play(igsearch.env(), QUESTIONS[0], [Answer("x"), Answer("Tolona")])

    _, first, second = run(main)
    assert (first[1:3], second[1:3]) == ((0.0, False), (1.0, True))


def test_episodes_do_not_wait_for_each_other() -> None:
    """A quick episode ends while a slow policy still thinks, which lockstep can't do."""
    done: list[str] = []

    async def one(igsearch: AsyncIGSearch, name: str, pause: float) -> None:
        await play(igsearch.env(), QUESTIONS[0], [Search("Karith"), Search("Lurm"), Answer("x")], pause)
        done.append(name)

    async def main() -> None:
        async with shared() as igsearch:
            start = time.monotonic()
            await asyncio.gather(one(igsearch, "slow", 0.2), *(one(igsearch, "quick", 0.0) for _ in range(5)))
            assert time.monotonic() - start < 5

    run(main)
    assert done == ["quick"] * 5 + ["slow"]
