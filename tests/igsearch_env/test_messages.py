"""`Trajectory.messages`: an episode as chat messages, and the system part of a prompt."""

from __future__ import annotations

import json

import pytest
from helpers import QUESTIONS, TAGGED, make_env, search

from igsearch_env import Answer, ConfigurationError, ReflectionWrapper, Search
from igsearch_env.protocols import Protocol, make_protocol

SYSTEM = "Answer in one word."


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize("system", ["", SYSTEM])
def test_an_episode_as_messages(family: str, system: str) -> None:
    env = make_env(protocol=make_protocol(family, system=system), max_searches=2)
    prompt, _ = env.reset(options={"question": QUESTIONS[0]})
    opening = [{"role": "system", "content": SYSTEM}] if system else []
    opening.append({"role": "user", "content": prompt})
    assert env.trajectory.messages() == opening
    observations = [env.step(action)[0] for action in (search("Alan"), "hm", Answer("Tolona"))]
    assert env.trajectory.messages() == [
        *opening,
        {"role": "assistant", "content": search("Alan")},
        {"role": "user", "content": observations[0].strip()},
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": observations[1].strip()},
        {"role": "assistant", "content": "<answer> Tolona </answer>"},
    ]
    assert observations[1].endswith("Answer now.\n\n")
    assert env.trajectory.transcript().startswith(f"{SYSTEM}\n\n{prompt}" if system else prompt)


def test_an_episode_with_tool_calls_as_messages() -> None:
    env = make_env(protocol="tool_calls")
    prompt, _ = env.reset(options={"question": QUESTIONS[0]})
    observations = [env.step(action)[0] for action in (Search('"Alan"'), "", Answer("Tolona"))]
    function = {"name": "search", "arguments": {"query": '"Alan"'}}
    assert env.trajectory.messages() == [
        {"role": "user", "content": prompt},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": observations[0]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": observations[1]},
        {"role": "assistant", "content": "Tolona"},
    ]
    assert "Alan Brin was born" in observations[0]


def test_answers_of_earlier_attempts_keep_their_text() -> None:
    env = ReflectionWrapper(make_env(), attempts=2)
    env.reset(options={"question": QUESTIONS[0]})
    env.step("<think> hm </think> <answer> x </answer>")
    messages = env.get_wrapper_attr("trajectory").messages()
    assert messages[1]["content"] == "<think> hm </think> <answer> x </answer>"


def test_the_result_of_an_invalid_call_is_a_message_of_the_tool() -> None:
    env = make_env(protocol="tool_calls")
    env.reset(options={"question": QUESTIONS[0]})
    function = {"name": "browse", "arguments": {}}
    call = {"id": "7", "type": "function", "function": function}
    env.step(json.dumps({"role": "assistant", "content": "I look.", "tool_calls": [call]}))
    *_, said, result = env.trajectory.messages()
    assert said == {"role": "assistant", "content": "I look.", "tool_calls": [{**call, "id": "call_0"}]}
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_0")


def test_messages_of_several_attempts() -> None:
    env = ReflectionWrapper(make_env(), attempts=2)
    env.reset(options={"question": QUESTIONS[0]})
    env.step(Answer("x"))
    roles = [message["role"] for message in env.get_wrapper_attr("trajectory").messages()]
    assert roles == ["user", "assistant", "user"]


def test_the_scorer_reads_the_system_part() -> None:
    found = []
    for system in ("", "Tolona Tolona Tolona"):
        env = make_env(protocol=make_protocol(system=system), information_gain={"random_source": "corpus"})
        env.reset(options={"question": QUESTIONS[0]})
        found.append(env.step(Search("Alan Brin"))[4]["information_gain"])
    assert found[0] > found[1]  # known from the system part, the answer is less of a surprise


def test_the_system_part_has_no_question_in_it() -> None:
    with pytest.raises(ConfigurationError, match=r"system='Say \{question\}'.*move \{question\} to the prompt"):
        make_protocol(system="Say {question}")
    assert make_protocol(system=" \n").system == ""
    assert make_protocol(system="a") != make_protocol()
    assert isinstance(make_protocol(system="a"), Protocol)
