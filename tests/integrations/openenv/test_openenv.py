"""OpenEnv: a real server, real clients over WebSockets, rewards of the local environment."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

pytest.importorskip("openenv.validation", reason="openenv is not installed: pip install igsearch[openenv]")

import uvicorn
from adapters import SETTINGS, local_episode, scripted_turns, some_questions
from openenv.validation import Level, Verdict, run_validation
from paths import ROOT

from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from integrations.credit import load_episode
from integrations.openenv import IGSearchClient, SearchAction
from integrations.openenv.server.app import app_of_environment, make_app
from integrations.settings import SearchSettings, question_row

SESSIONS = 32


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return some_questions()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = make_app(SearchSettings.of(SETTINGS).shared(), SESSIONS)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


async def play(client: IGSearchClient, question: Question) -> list[Any]:
    first = await client.reset(question=question_row(question))
    assert question.text in first.observation.text
    return [await client.step(SearchAction(text=turn)) for turn in scripted_turns(question)]


async def play_all(address: str, questions: list[Question]) -> list[list[Any]]:
    clients = [IGSearchClient(base_url=address) for _ in questions]
    try:
        await asyncio.gather(*(client.connect() for client in clients))
        return list(await asyncio.gather(*(play(c, q) for c, q in zip(clients, questions, strict=True))))
    finally:
        await asyncio.gather(*(client.close() for client in clients))


def test_concurrent_sessions_earn_the_rewards_of_the_local_environment(address: str, questions: list[Question]) -> None:
    many = [questions[i % len(questions)] for i in range(SESSIONS)]
    for results, question in zip(asyncio.run(play_all(address, many)), many, strict=True):
        local = local_episode(question)
        assert [r.reward for r in results] == [turn.reward for turn in local.turns]
        assert [r.observation.text for r in results] == [turn.observation for turn in local.turns]
        assert [r.done for r in results] == [False, False, False, True]
        assert [r.metadata.get("query") for r in results] == [turn.query for turn in local.turns]
        assert load_episode(results[-1].observation.episode).transcript() == local.transcript()


def test_questions_are_drawn_as_locally(address: str) -> None:
    local = gymnasium.make("IGSearch-v0", disable_env_checker=True)
    with IGSearchClient(base_url=address).sync() as client:
        for seed in range(3):
            assert client.reset(seed=seed).observation.text == local.reset(seed=seed)[0]
        assert client.reset(index=7).metadata["question_id"] == SearchSettings().open().questions[7].id
        client.step(SearchAction(text="no action"))
        assert client.state().step_count == 1


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ({"index": 10_000}, "index=10000: must be in 0 to 1231"),
        ({"index": 0, "split": "trian"}, "did you mean 'train'"),
        ({"question": {"text": "Who?"}}, "give id, text, golden_answers"),
    ],
    ids=["index", "split", "question"],
)
def test_bad_input_is_refused_and_the_session_lives(address: str, reset: dict[str, Any], message: str) -> None:
    with IGSearchClient(base_url=address).sync() as client:
        with pytest.raises(RuntimeError, match=message):
            client.reset(**reset)
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            client.step(SearchAction(text="x"))
        client.reset(index=0)
        assert not client.step(SearchAction(text="x")).done


@pytest.mark.parametrize(
    ("settings", "sessions", "message"),
    [
        ("[", "8", "JSON object"),
        ("[]", "8", "JSON object"),
        ("{}", "many", "a number"),
        ('{"topk": 1}', "8", "'top_k'"),
    ],
    ids=["no JSON", "a list", "sessions", "unknown key"],
)
def test_wrong_environment_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: str, sessions: str, message: str
) -> None:
    monkeypatch.setenv("IGSEARCH_SETTINGS", settings)
    monkeypatch.setenv("IGSEARCH_SESSIONS", sessions)
    with pytest.raises(ConfigurationError, match=message):
        app_of_environment()


def test_the_package_is_valid() -> None:
    report = run_validation(Path(ROOT / "integrations" / "openenv"), max_level=Level.STATIC)
    assert report.verdict == Verdict.PASS
