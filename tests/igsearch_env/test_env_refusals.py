"""What both environments refuse: calls out of turn, bad actions and bad arguments, each named."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers import QUESTIONS, answer, make_env, make_envs

from igsearch_env import ConfigurationError, QuestionError
from retrievers import QueryError


def test_step_needs_a_running_episode() -> None:
    env = make_env()
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(answer("x"))
    env.reset(options={"question": QUESTIONS[0]})
    env.step(answer("x"))
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"answered.*reset"):
        env.step(answer("x"))
    env.reset(options={"question": QUESTIONS[0]})
    assert env.step(answer("Tolona"))[1] == 1.0


@pytest.mark.parametrize("action", [None, 7, b"<answer>x</answer>", ["x"]])
def test_an_action_must_be_a_string(action: Any) -> None:
    env = make_env()
    env.reset(options={"question": QUESTIONS[0]})
    with pytest.raises(ConfigurationError, match=f"{type(action).__name__}.*must be a string"):
        env.step(action)
    assert env.trajectory.turns == []


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"top_k": 9}, QueryError, "top_k=9 .*8 passages"),
        ({"top_k": 0}, ConfigurationError, "top_k=0"),
        ({"max_searches": 0}, ConfigurationError, "max_searches=0"),
        ({"scorer": "bigram"}, ConfigurationError, "scorer='bigram'.*'unigram'"),
        ({"protocol": "search-r1"}, ConfigurationError, "protocol='search-r1'.*did you mean 'search_r1'"),
        ({"outcome_reward": "EM"}, ConfigurationError, "outcome_reward='EM'.*'em'"),
        ({"information_gain": {"dead_zon": 1}}, ConfigurationError, "'dead_zon'.*did you mean 'dead_zone'"),
        ({"information_gain": {"baseline": "randon"}}, ConfigurationError, "'randon'.*did you mean 'random'"),
        ({"information_gain": {"negative_scale": 2}}, ConfigurationError, "negative_scale=2"),
        ({"render_mode": "rgb_array"}, ConfigurationError, "render_mode='rgb_array'.*'ansi'"),
        ({"questions": []}, QuestionError, "questions is empty"),
        ({"questions": [*QUESTIONS, QUESTIONS[1]]}, QuestionError, "'q1' occurs twice"),
        ({"questions": None}, ConfigurationError, "retriever is given but no questions"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_env(**options)


@pytest.mark.parametrize("mask", [[True, False], np.array([True]), np.array([1, 0]), np.array([[True, False]])])
def test_bad_reset_mask_is_refused(mask: Any) -> None:
    envs = make_envs(2)
    envs.reset()
    with pytest.raises(ConfigurationError, match=r"reset_mask.*boolean array of 2"):
        envs.reset(options={"reset_mask": mask})


def test_first_reset_takes_no_partial_mask() -> None:
    with pytest.raises(ConfigurationError, match="first reset"):
        make_envs(2).reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize("actions", [[], ["x"], ["x"] * 3])
def test_wrong_number_of_actions_is_refused(actions: list[str]) -> None:
    envs = make_envs(2)
    envs.reset()
    with pytest.raises(ConfigurationError, match=f"{len(actions)} actions for 2 environments"):
        envs.step(actions)


@pytest.mark.parametrize(
    "actions",
    ["ab", ["x", None], ["x", 3], np.array("x"), iter(["x", "y"]), None, np.array([["x"], ["y"]])],
    ids=["string", "None in it", "number", "array of no dimension", "iterator", "None", "array of two dimensions"],
)
def test_every_action_must_be_a_string(actions: Any) -> None:
    envs = make_envs(2)
    envs.reset()
    with pytest.raises(ConfigurationError, match="string"):
        envs.step(actions)
    assert [trajectory.turns for trajectory in envs.trajectories] == [[], []]


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        make_envs(2).step(["x", "x"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"options": {"questions": QUESTIONS[:3]}}, "3 entries for 2 environments"),
        ({"options": {"questions": [QUESTIONS[0], "Who?"]}}, r"'Who\?'.*Question"),
        ({"options": {"questions": iter(QUESTIONS[:2])}}, "must be a list of 2 Questions"),
        ({"options": {"questions": QUESTIONS[0]}}, "must be a list of 2 Questions"),
        ({"options": {"questions": "ab"}}, "must be a list of 2 Questions"),
        ({"options": {"questions": np.array("ab")}}, "1 entries for 2 environments"),
        ({"options": ["questions"]}, "options=.*must be a dictionary"),
        ({"seed": "ab"}, "seed='ab': must be a whole number, a list of 2"),
        ({"seed": 0.5}, "seed=0.5: must be a whole number"),
        ({"seed": [1]}, "1 seeds for 2 environments"),
        ({"seed": [1, 2, 3]}, "3 seeds for 2 environments"),
    ],
)
def test_bad_reset_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_envs(2).reset(**arguments)


def test_options_of_a_single_environment_are_a_dictionary() -> None:
    with pytest.raises(ConfigurationError, match=r"options=.*must be a dictionary"):
        make_env().reset(options=[QUESTIONS[0]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"num_envs": 0}, "num_envs=0"), ({"render_mode": "ansi"}, "render_mode='ansi'"), ({"protocol": "x"}, "'x'")],
)
def test_bad_vector_arguments_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_envs(**options)
