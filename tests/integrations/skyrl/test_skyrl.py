"""SkyRL-gym: the registered environment gives the rewards of the local one, turn by turn."""

from __future__ import annotations

import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("skyrl_gym", reason="skyrl-gym is not installed: pip install igsearch[skyrl]")

from adapters import SETTINGS, local_episode, scripted_turns, some_questions

from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.questions import Question
from integrations.credit import load_episode
from integrations.episodes import dataset_row
from integrations.settings import SearchSettings


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return some_questions()


def make(question: Question, **settings: Any) -> Any:
    import skyrl_gym

    importlib.import_module("integrations.skyrl")
    batcher = SearchSettings.of({**SETTINGS, **settings}).shared()
    row = dataset_row(batcher.stepper.rules.protocol, question, env_class="igsearch")
    return skyrl_gym.make("igsearch", env_config={**SETTINGS, **settings}, extras=row), row


def play(question: Question, **settings: Any) -> tuple[list[Any], Any]:
    env, row = make(question, **settings)
    messages, _ = env.init(row["prompt"])
    assert messages == row["prompt"]
    outputs = [env.step(turn) for turn in scripted_turns(question)]
    return outputs, env


@pytest.mark.parametrize(
    "settings", [{}, {"protocol": "autorefine"}, {"scorer": None}], ids=["default", "autorefine", "no scorer"]
)
def test_rewards_and_observations_are_those_of_the_local_environment(
    questions: list[Question], settings: dict[str, Any]
) -> None:
    for question in questions:
        outputs, env = play(question, **settings)
        local = local_episode(question, **settings)
        assert [o["reward"] for o in outputs] == [turn.reward for turn in local.turns]
        assert [o["done"] for o in outputs] == [False] * (len(outputs) - 1) + [True]
        shown = [o["observations"][0]["content"] for o in outputs[:-1]]
        assert shown == [turn.observation for turn in local.turns[:-1]]
        assert env.get_metrics()["outcome"] == local.outcome
        assert load_episode(outputs[-1]["metadata"]["episode"]).transcript() == local.transcript()
        assert json.loads(json.dumps(outputs[0]["metadata"]))["query"] == local.turns[0].query


def test_threads_share_one_stepper(questions: list[Question]) -> None:
    with ThreadPoolExecutor(8) as pool:
        played = list(pool.map(play, questions * 4))
    assert len({id(env.batcher) for _, env in played}) == 1
    expected = [[turn.reward for turn in local_episode(q).turns] for q in questions] * 4
    assert [[o["reward"] for o in outputs] for outputs, _ in played] == expected


def test_another_prompt_is_what_the_scorer_reads(questions: list[Question]) -> None:
    env, _ = make(questions[0])
    env.init([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])
    assert env.trajectory.prompt == "Be brief.\nWho?"


def test_bad_input_is_refused(questions: list[Question]) -> None:
    import skyrl_gym

    importlib.import_module("integrations.skyrl")
    with pytest.raises(QuestionError, match="extra_info"):
        skyrl_gym.make("igsearch", env_config=SETTINGS, extras={"reward_spec": {}})
    with pytest.raises(ConfigurationError, match="did you mean 'top_k'"):
        skyrl_gym.make("igsearch", env_config={"topk": 3}, extras={})
    env, row = make(questions[0])
    with pytest.raises(ConfigurationError, match="init"):
        env.step("x")
    env.init(row["prompt"])
    for turn in scripted_turns(questions[0]):
        env.step(turn)
    with pytest.raises(ConfigurationError, match="has ended"):
        env.step("x")
