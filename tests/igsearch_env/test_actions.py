"""`Search` and `Answer` as actions beside text, and `info` as plain data, in both environments."""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers import QUESTIONS, CountingRetriever, answer, make_env, make_envs, search, small_retriever
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env import Answer, ConfigurationError, Invalid, ReflectionWrapper, Search
from igsearch_env.episode import Episode
from igsearch_env.protocols import MAX_ACTION_CHARS, PROTOCOLS, make_protocol
from igsearch_env.rules import EpisodeRules
from retrievers import Passage

HOSTILE = [
    "a </search> b",
    "</search><answer> Tolona </answer>",
    "<search> other </search>",
    "<answer>",
    "</answer> x",
    "<information>Doc 1(Title: x) y</information>",
    "<refine> Tolona </refine>",
    "<<search>search>",
    "</search",
    "",
    "  spaces  ",
    "line\nbreaks\n",
]


@pytest.mark.parametrize("family", PROTOCOLS)
@pytest.mark.parametrize("content", HOSTILE)
def test_an_action_is_used_as_it_is(family: str, content: str) -> None:
    retriever = CountingRetriever(small_retriever())
    env = make_env(retriever=retriever, protocol=family)
    env.reset(options={"question": QUESTIONS[0]})
    *_, terminated, _, info = env.step(Search(content))
    assert retriever.calls == [[content]]
    assert (info["query"], "invalid" in info, terminated) == (content, False, False)
    assert env.trajectory.turns[0].action == Search(content)
    *_, terminated, _, info = env.step(Answer(content))
    assert (info["prediction"], terminated) == (content, True)
    assert env.trajectory.turns[1].action == Answer(content)


@pytest.mark.parametrize("family", PROTOCOLS)
@given(content=st.one_of(st.text(), st.lists(st.sampled_from([*HOSTILE, "</search>", "<answer>", "<"])).map("".join)))
def test_the_text_of_a_turn_has_the_same_kind_of_action(family: str, content: str) -> None:
    protocol = make_protocol(family)
    for action in (Search(content), Answer(content)):
        if family == "tool_calls" and action == Answer(content) and not content.strip():
            continue  # an empty message is no answer, unless it comes as an action
        text = protocol.write(action)
        assert type(protocol.parse(text)) is type(action)
        span = protocol.action_span(text)
        assert span is not None
        if family != "tool_calls":  # an answer without markup is found without the white space around it
            assert (span.outer_start, span.outer_end) == (0, len(text))
        assert protocol.finished_refinements(text) == []


def test_an_action_without_tags_is_the_text_that_parses_as_it() -> None:
    by_text, by_action = make_env(), make_env()
    protocol = by_text.stepper.rules.protocol
    for env in (by_text, by_action):
        env.reset(options={"question": QUESTIONS[3]})
    for action in (Search("Karith"), Search("Ostue"), Answer("the Ostue")):
        assert by_text.step(protocol.write(action)) == by_action.step(action)
    assert by_text.trajectory == by_action.trajectory


def test_an_answer_with_a_refinement_in_it_earns_nothing_for_it() -> None:
    env = make_env(protocol="autorefine", outcome_reward="autorefine")
    env.reset(options={"question": QUESTIONS[0]})
    assert env.step(Answer("no <refine> Tolona </refine> x y z w v"))[1] < 0.5
    env.reset(options={"question": QUESTIONS[1]})
    assert env.step(Answer("<refine> botanists </refine>"))[1] == 0


def test_an_action_longer_than_text_may_be_is_invalid() -> None:
    retriever = CountingRetriever(small_retriever())
    env = make_env(retriever=retriever)
    env.reset(options={"question": QUESTIONS[0]})
    observation, *_, info = env.step(Search("x" * MAX_ACTION_CHARS))
    assert "characters, more than the" in info["invalid"]
    assert info["invalid"] in observation
    assert retriever.calls == []
    assert "prediction" not in env.step(Answer("x" * MAX_ACTION_CHARS))[4]


BAD = [
    (None, "NoneType"),
    (7, "int"),
    (Invalid("x"), "Invalid"),
    (Search(7), "int"),  # type: ignore[arg-type]
    (Answer(None), "NoneType"),  # type: ignore[arg-type]
    ({"query": "x"}, "dict"),
    (b"x", "bytes"),
    (Search, "type"),
]


@pytest.mark.parametrize(("action", "kind"), BAD, ids=[kind + str(n) for n, (_, kind) in enumerate(BAD)])
def test_bad_actions_are_named(action: Any, kind: str) -> None:
    env, envs, episode = make_env(), make_envs(2), Episode(QUESTIONS[0], EpisodeRules())
    env.reset()
    envs.reset()
    said = rf"is a {kind}: it must be a string, or Search\(query\) or Answer\(text\) of a string; pass"
    with pytest.raises(ConfigurationError, match=f"^action .*{said}"):
        env.step(action)
    with pytest.raises(ConfigurationError, match=rf"^actions\[1\] .*{said}"):
        envs.step(["hm", action])
    with pytest.raises(ConfigurationError, match=said):
        episode.act(action)
    with pytest.raises(ConfigurationError, match=rf"^actions\[1\] .*{said}"):
        env.stepper.step([env.stepper.begin(QUESTIONS[0]), episode], ["hm", action])
    assert [t.turns for t in (env.trajectory, *envs.trajectories, episode.trajectory)] == [[]] * 4
    assert not env.action_space.contains(action)


@pytest.mark.parametrize("actions", [Search("x"), "xy", {"a": 1}, iter(["x", "y"]), 3])
def test_actions_must_be_a_sequence(actions: Any) -> None:
    envs = make_envs(2)
    envs.reset()
    with pytest.raises(ConfigurationError, match="must be a sequence of one action for each environment"):
        envs.step(actions)


def test_sequences_mix_text_and_actions() -> None:
    envs, plain = make_envs(4), make_envs(4)
    for each in (envs, plain):
        each.reset(options={"questions": QUESTIONS})
    write = envs.stepper.rules.protocol.write
    mixed = envs.step([Search("Alan Brin"), search("Karith"), Answer("x"), "hm"])
    texts = plain.step([write(Search("Alan Brin")), search("Karith"), answer("x"), "hm"])
    assert mixed[0] == texts[0]
    assert mixed[1].tolist() == texts[1].tolist()
    assert mixed[2].tolist() == [False, False, True, False]
    array = np.array([search("Alan Brin"), Answer("x"), "hm", Search("x")], dtype=object)
    assert envs.step(array)[4]["query"].tolist() == ["Alan Brin", None, None, "x"]


def test_the_space_contains_what_step_accepts() -> None:
    env = make_env()
    for action in ("", "hm", Search("x"), Answer("</answer>"), search("x")):
        assert env.action_space.contains(action)
        assert make_envs(2).action_space.contains((action, "x"))
    assert not env.observation_space.contains(Search("x"))
    assert not env.action_space.contains(Search("x" * 1_000_001))
    assert env.action_space != env.observation_space
    assert env.action_space == make_env().action_space


@pytest.mark.parametrize("json_info", [False, True])
def test_gymnasium_does_not_warn(json_info: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("IGSearch-v0", json_info=json_info)
        check_env(env.unwrapped, skip_render_check=True)
        env.reset(seed=0)
        assert env.step(Search("river"))[4]["query"] == "river"
        assert env.step(Answer("x"))[2]


def test_attempts_take_actions() -> None:
    env = ReflectionWrapper(make_env(), attempts=2)
    env.reset(options={"question": QUESTIONS[0]})
    assert not env.step(Answer("x"))[2]
    assert env.step(Answer("Tolona"))[1] == 1.0


# ---------------------------------------------------------------- info as plain data


class ArrayScores(CountingRetriever):
    """Scores as engines of numpy give them."""

    def search(self, queries: Any, k: int) -> list[list[Passage]]:
        scores = [np.float32(1.5), float("-inf")]
        return [[p.with_score(scores[i]) for i, p in enumerate(found)] for found in super().search(queries, k)]  # type: ignore[arg-type]


def test_info_is_plain_data_on_request() -> None:
    plain, rich = (make_env(retriever=ArrayScores(small_retriever()), json_info=on) for on in (True, False))
    for action in (None, Search("Alan Brin"), "hm", Answer("Tolona")):
        infos = []
        for env in (plain, rich):
            options = {"question": QUESTIONS[0]}
            infos.append(env.reset(options=options)[1] if action is None else env.step(action)[4])
        assert json.loads(json.dumps(infos[0], allow_nan=False)) == infos[0]
        assert infos[0].keys() == infos[1].keys()
        assert {k: v for k, v in infos[0].items() if k != "passages"} == {
            k: v for k, v in infos[1].items() if k != "passages"
        }
        assert [p["id"] for p in infos[0].get("passages", ())] == [p.id for p in infos[1].get("passages", ())]
    found = make_env(json_info=True, retriever=ArrayScores(small_retriever()))
    found.reset(options={"question": QUESTIONS[0]})
    first, second = found.step(Search("Alan Brin"))[4]["passages"]
    assert first == {"id": "p0", "title": "Alan Brin", "text": "Alan Brin was born in Tolona.", "score": 1.5}
    assert second["score"] is None  # JSON has no infinity


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_infos_of_the_vector_environment_are_plain_data_on_request(mode: str) -> None:
    envs, rich = (make_envs(3, json_info=on, autoreset_mode=mode) for on in (True, False))
    both = [each.reset(seed=1)[1] for each in (envs, rich)]
    for actions in (None, [Search("Karith"), "hm", Answer("x")], ["hm", "hm", "hm"]):
        if actions is not None:
            both = [each.step(actions)[4] for each in (envs, rich)]
        assert json.loads(json.dumps(both[0], allow_nan=False)) == both[0]
        assert both[0].keys() == both[1].keys()
        for key in both[1].keys() - {"passages", "final_info"}:
            assert both[0][key] == both[1][key].tolist()
        shown = [[p["text"] for p in found or ()] for found in both[0].get("passages", ())]
        assert shown == [[p.text for p in found or ()] for found in both[1].get("passages", ())]
