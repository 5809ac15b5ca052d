"""Several attempts at one question: `ReflectionWrapper`, the episodes behind it, and the tokens of a user's turn."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import gymnasium
import pytest
from chat_templates import CHATML, LLAMA, chat_policy
from gymnasium.utils.env_checker import check_env
from helpers import (
    QUESTIONS,
    FailingRetriever,
    RecordingScorer,
    answer,
    info_of,
    make_env,
    make_envs,
    read,
    search,
    small_retriever,
)
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_policy, turn_end

from algorithms.common.model.policy import Policy
from algorithms.common.model.tokenizer import Ids
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.base import Engine
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env import ConfigurationError, IGSearchEnv
from igsearch_env.protocols import Answer, Invalid, make_protocol
from igsearch_env.reflection import ReflectionWrapper
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Attempt

LAST_CALL = "No search is left. Answer now.\n\n"


def reflecting(attempts: int = 3, **options: Any) -> ReflectionWrapper:
    """Several attempts in the small world."""
    return ReflectionWrapper(make_env(**options), attempts)


def begin(env: ReflectionWrapper, number: int = 0) -> tuple[str, dict[str, Any]]:
    """Reset to question `number` of the small world."""
    return env.reset(options={"question": QUESTIONS[number]})


def inner(env: gymnasium.Env[str, str]) -> IGSearchEnv:
    """The environment in the wrappers."""
    assert isinstance(env.unwrapped, IGSearchEnv)
    return env.unwrapped


# ---------------------------------------------------------------- as Gymnasium sees it


def test_passes_gymnasiums_checker_without_a_warning_but_that_it_is_a_wrapper() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(ReflectionWrapper(gymnasium.make("IGSearch-v0")))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda spec: pickle.loads(pickle.dumps(spec))])
def test_its_spec_makes_it_again(way: Any) -> None:
    spec = way(ReflectionWrapper(gymnasium.make("IGSearch-v0"), 2).spec)
    env = gymnasium.make(spec)
    env.reset(seed=0)
    assert [env.step(answer("x"))[2] for _ in range(2)] == [False, True]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_from_where_it_was_taken(way: Any) -> None:
    env = reflecting(2)
    begin(env)
    env.step(answer("x"))
    twin = way(env)
    assert twin.step(answer("Tolona"))[1:3] == (1.0, True)
    assert env.step(answer("x"))[1:3] == (0.0, True)


def test_wraps_environments_of_gymnasiums_vector_form() -> None:
    envs = gymnasium.make_vec(
        "IGSearch-v0", 2, vectorization_mode="sync", wrappers=[lambda env: ReflectionWrapper(env, 2)]
    )
    envs.reset(seed=0)
    for attempts in (1, 2):
        _, _, terminations, _, infos = envs.step((answer("x"), search("river")))
        assert infos["attempts"].tolist() == [attempts, 0]
    assert terminations.tolist() == [True, False]
    envs.close()


@pytest.mark.parametrize("attempts", [0, -1, 101])
def test_an_impossible_number_of_attempts_is_named(attempts: int) -> None:
    with pytest.raises(ConfigurationError, match=f"attempts={attempts}: must be from 1 to 100"):
        reflecting(attempts)


def test_another_environment_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="env is a CartPoleEnv: it must be an IGSearchEnv"):
        ReflectionWrapper(gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]


# ---------------------------------------------------------------- an episode


def test_every_answer_is_paid_and_only_the_last_ends_the_episode() -> None:
    env = reflecting()
    first, info = begin(env)
    seen = [info["attempts"]]
    for text, outcome, last in (("Karith", 0.0, False), ("Tolona", 1.0, False), ("Lurm", 0.0, True)):
        observation, reward, terminated, truncated, info = env.step(answer(text))
        assert (reward, terminated, truncated) == (outcome, last, False)
        assert (QUESTIONS[0].text in observation) == (not last)
        assert observation != first
        assert (info["prediction"], info.get("outcome")) == (text, outcome if last else None)
        assert info.get("stop_reason") == ("answered" if last else None)
        seen.append(info["attempts"])
    assert observation == ""
    assert seen == [0, 1, 2, 3]
    assert inner(env).trajectory.attempts == [
        Attempt(1, "Karith", 0.0),
        Attempt(2, "Tolona", 1.0),
        Attempt(3, "Lurm", 0.0),
    ]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(answer("Tolona"))
    assert begin(env, 1)[1]["attempts"] == 0


@pytest.mark.parametrize(("protocol", "prompt"), [("search_r1", ""), ("autorefine", ""), ("search_r1", "bare")])
def test_the_reflection_asks_the_question_again_in_the_words_of_the_protocol(protocol: str, prompt: str) -> None:
    env = reflecting(2, protocol=make_protocol(protocol, prompt))
    begin(env)
    observation = env.step(answer("x"))[0]
    assert observation == inner(env).stepper.rules.protocol.reflection(QUESTIONS[0].text)
    assert observation.endswith(f"{QUESTIONS[0].text}\n")
    assert ("Look back" in observation) == (prompt != "bare")


def test_one_attempt_is_the_plain_environment() -> None:
    env, plain = reflecting(1), make_env()
    begin(env)
    plain.reset(options={"question": QUESTIONS[0]})
    for text in (search("Karith"), "hm", answer("Tolona")):
        assert env.step(text) == plain.step(text)
    assert inner(env).trajectory == plain.trajectory


def test_the_searches_of_an_attempt_are_its_own() -> None:
    env = reflecting(2, max_searches=2)
    begin(env)
    ends = [env.step(text)[0].endswith(LAST_CALL) for text in (search("Karith"), search("Lurm"))]
    assert ends == [False, True]
    env.step(answer("x"))
    ends = [env.step(text)[0].endswith(LAST_CALL) for text in (search("Karith"), "hm")]
    assert ends == [False, True]
    assert env.step(answer("Tolona"))[1:3] == (1.0, True)


def test_an_early_answer_leaves_no_searches_to_the_next_attempt() -> None:
    env = reflecting(2, max_searches=1)
    begin(env)
    env.step(answer("x"))
    assert env.step(search("Karith"))[0].endswith(LAST_CALL)
    assert env.step(search("Karith"))[3]


def test_an_attempt_without_an_answer_brings_the_reflection_too() -> None:
    env = reflecting(2, max_searches=1)
    begin(env)
    env.step("hm")
    observation, reward, terminated, truncated, info = env.step(search("Karith"))
    assert QUESTIONS[0].text in observation
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info == {"question_id": "q0", "query": "Karith", "passages": (), "attempts": 1}
    assert env.step(answer("Tolona"))[1:3] == (1.0, True)
    assert inner(env).trajectory.attempts == [Attempt(2, None, 0.0), Attempt(3, "Tolona", 1.0)]


def test_the_last_attempt_counts_though_an_earlier_one_was_right() -> None:
    env = reflecting(2, max_searches=1)
    begin(env)
    assert env.step(answer("Tolona"))[1] == 1.0
    env.step("hm")
    observation, _, terminated, truncated, info = env.step("hm")
    assert (observation, terminated, truncated) == ("", False, True)
    assert (info["stop_reason"], info["outcome"], "prediction" in info) == ("no_answer", 0.0, False)
    assert inner(env).trajectory.outcome == 0.0


def test_refine_blocks_of_an_earlier_attempt_earn_nothing() -> None:
    env = reflecting(2, protocol="autorefine", outcome_reward="autorefine", scorer=None)
    begin(env)
    env.step(search("Alan Brin"))
    assert env.step("<refine> born in Tolona </refine>" + answer("Karith"))[1] == 0.1
    assert env.step("<refine> nothing new </refine>" + answer("Karith"))[1] == 0.0
    begin(env)
    env.step(answer("Karith"))
    env.step("<refine> born in Tolona </refine>" + search("Karith"))
    assert env.step(answer("Karith"))[1] == 0.1


def test_a_retrieval_failure_ends_the_whole_episode() -> None:
    env = reflecting(3, retriever=FailingRetriever(small_retriever()))
    begin(env)
    env.step(answer("Tolona"))
    observation, reward, terminated, truncated, info = env.step(search("fail now"))
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert (info["stop_reason"], info["attempts"]) == ("retrieval_failed", 1)
    assert inner(env).trajectory.retrieval_failed


def test_a_search_after_the_reflection_is_valued_with_all_that_was_read_before() -> None:
    scorer = RecordingScorer()
    env = reflecting(2, scorer=scorer)
    begin(env)
    reflection = env.step(answer("Karith"))[0]
    info = env.step(search("Alan Brin"))[-1]
    assert "information_gain" in info
    assert answer("Karith") + reflection + search("Alan Brin") in read(scorer.requests[0], 0)


@pytest.mark.parametrize("right", [True, False])
def test_autorefine_pays_the_last_search_of_an_attempt_with_its_answer(right: bool) -> None:
    raw = {"dead_zone": 0.0, "negative_scale": 1.0, "soft_clip_form": "none"}
    env = reflecting(2, protocol="autorefine", information_gain=raw)
    begin(env)
    env.step(search("Alan Brin"))
    _, reward, _, _, info = env.step("<refine> Tolona </refine>" + answer("Tolona" if right else "Karith"))
    assert "information_gain" in info
    assert reward == pytest.approx(right + info["information_gain"])
    assert inner(env).trajectory.attempts[0].outcome == float(right)  # the gain is no part of the outcome


def test_the_vector_environment_gives_the_same_as_single_ones() -> None:
    envs = make_envs(2, autoreset_mode="Disabled", max_searches=1)
    envs.stepper.rules = replace(envs.stepper.rules, attempts=2)
    singles = [reflecting(2, max_searches=1) for _ in range(2)]
    envs.reset(options={"questions": QUESTIONS[:2]})
    for number, env in enumerate(singles):
        begin(env, number)
    for actions in ((answer("x"), search("Mira Sorel")), (search("Alan Brin"), "hm"), (answer("Tolona"), answer("x"))):
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        for i, env in enumerate(singles):
            observation, reward, terminated, truncated, info = env.step(actions[i])
            assert (observations[i], rewards[i]) == (observation, reward)
            assert (terminations[i], truncations[i]) == (terminated, truncated)
            assert info_of(infos, i) == info
    assert terminations.tolist() == [True, True]
    assert [len(t.attempts) for t in envs.trajectories] == [2, 2]


# ---------------------------------------------------------------- any actions

ACTIONS = st.lists(
    st.sampled_from([search("Karith"), search("fail"), search(""), "hm", "", answer("Tolona"), answer("")])
    | st.text(max_size=20),
    min_size=12,
    max_size=12,
)


@lru_cache
def with_failures(attempts: int, protocol: str) -> ReflectionWrapper:
    """Two searches an attempt, with a retriever that may fail."""
    return reflecting(attempts, max_searches=2, protocol=protocol, retriever=FailingRetriever(small_retriever()))


def reflection_of(env: ReflectionWrapper) -> str:
    """What is read between two attempts at the question of the running episode."""
    return inner(env).stepper.rules.protocol.reflection(inner(env).trajectory.question.text)


@given(ACTIONS, st.integers(1, 4), st.sampled_from(["search_r1", "autorefine"]))
def test_turns_fall_into_attempts_and_no_more_than_allowed(texts: list[str], attempts: int, protocol: str) -> None:
    env = with_failures(attempts, protocol)
    begin(env)
    trajectory = inner(env).trajectory
    for text in texts:
        before = len(trajectory.attempts)
        observation, _, terminated, truncated, info = env.step(text)
        assert env.observation_space.contains(observation)
        assert info["attempts"] - before in (0, 1)
        assert (terminated or truncated) == trajectory.done == ("stop_reason" in info)
        if trajectory.done:
            break
        assert (info["attempts"] > before) == (observation == reflection_of(env))
    assert trajectory.done
    assert len(trajectory.attempts) <= attempts
    ends = [0, *(attempt.end for attempt in trajectory.attempts)]
    assert ends == sorted(set(ends))  # no attempt without a turn
    assert ends[-1] == len(trajectory.turns) or trajectory.retrieval_failed
    for start, attempt in zip(ends, trajectory.attempts, strict=False):
        turns = trajectory.turns[start : attempt.end]
        assert len(turns) <= 3
        assert not any(isinstance(turn.action, Answer) for turn in turns[:-1])
        assert (attempt.prediction is not None) == isinstance(turns[-1].action, Answer)
    if trajectory.attempts:
        assert (trajectory.prediction, trajectory.outcome) == (
            trajectory.attempts[-1].prediction,
            trajectory.attempts[-1].outcome,
        )


# ---------------------------------------------------------------- the tokens of a user's turn


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("closed", [True, False])
def test_a_reflection_is_a_turn_of_the_user_in_the_chat_template(template: str, closed: bool) -> None:
    policy = chat_policy(template)
    written = policy.tokenizer.encode("<think> hm </think> <answer> Tolona </answer>")
    completion = (*written, policy.tokenizer.hf_tokenizer.eos_token_id) if closed else written
    said = make_protocol().reflection("Where was Alan Brin born?")
    messages = [
        {"role": "user", "content": "Where was Alan Brin born?"},
        {"role": "assistant", "content": policy.tokenizer.decode(completion)},
        {"role": "user", "content": said.strip()},
    ]
    whole = policy.tokenizer.hf_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = policy.tokenizer.encode_prompt("Where was Alan Brin born?")
    assert (*prompt, *completion, *policy.tokenizer.encode_user_turn(said, completion)) == tuple(
        policy.tokenizer.hf_tokenizer.encode(whole, add_special_tokens=False)
    )


def test_an_end_of_turn_that_the_policy_wrote_is_not_written_twice() -> None:
    policy = chat_policy(CHATML)
    end = policy.tokenizer.hf_tokenizer.eos_token_id
    opened = policy.tokenizer.encode_user_turn("Again?", policy.tokenizer.encode("yes"))
    closed = policy.tokenizer.encode_user_turn("Again?", (*policy.tokenizer.encode("yes"), end))
    assert opened == (end, *closed)
    assert end not in (closed[0], opened[1])
    assert policy.tokenizer.encode_user_turn("Again?", ()) == opened


def test_without_a_chat_the_text_stands_as_it_is() -> None:
    policy = tiny_policy()
    said = make_protocol().reflection("Where was Alan Brin born?")
    for before in ((), policy.tokenizer.encode("yes"), (policy.tokenizer.hf_tokenizer.eos_token_id,)):
        assert policy.tokenizer.encode_user_turn(said, before) == policy.tokenizer.encode(said)


@pytest.mark.parametrize("chat", [True, False])
def test_a_rollout_records_the_reflection_as_it_was_read(chat: bool) -> None:
    policy = chat_policy(CHATML) if chat else tiny_policy()
    bare = make_protocol("search_r1", "bare")
    engine = EpisodeStepper(
        QUESTIONS, small_retriever(), None, EpisodeRules(top_k=2, max_searches=1, attempts=3, protocol=bare)
    )
    decoder = Decoder(policy, turn_end(policy), slots=4, max_new_tokens=4, temperature=1.0)
    for member in play(decoder, engine, QUESTIONS, seed=(0,)):
        assert len(member.attempts) == 3
        for attempt in member.attempts[:-1]:
            turn = member.turns[attempt.end - 1]
            assert turn.observation_ids == policy.tokenizer.encode_user_turn(turn.observation, turn.completion_ids)
            assert policy.tokenizer.decode(turn.observation_ids).endswith("<|im_start|>assistant\n") == chat


class ClosesItsTurn(Engine):
    """Writes no action but the end of its turn."""

    name = "scripted"

    def __init__(self, policy: Policy) -> None:
        self.ids = (*policy.tokenizer.encode("I give up."), policy.tokenizer.hf_tokenizer.eos_token_id)

    def complete(self, prompts: Sequence[Ids], seeds: Sequence[int], **options: Any) -> list[Completion]:
        return [Completion(self.ids, (-1.0,) * len(self.ids)) for _ in prompts]

    @classmethod
    def memory(cls, settings: Any, sizes: Any) -> Any:
        raise NotImplementedError

    def update_weights(self, weights: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("chat", [True, False])
def test_a_turn_that_was_closed_without_an_action_is_answered_by_the_user(chat: bool) -> None:
    policy = chat_policy(CHATML) if chat else tiny_policy()
    engine = EpisodeStepper(
        QUESTIONS, small_retriever(), None, EpisodeRules(max_searches=1, protocol=make_protocol("search_r1", "bare"))
    )
    writer = EngineDecoder(ClosesItsTurn(policy), policy, turn_end(policy), slots=1, max_new_tokens=20, temperature=0)
    (trajectory,) = play(writer, engine, QUESTIONS[:1], seed=(0,))
    first = trajectory.turns[0]
    assert isinstance(first.action, Invalid)
    in_chat = f"\n<|im_start|>user\n{first.observation.strip()}<|im_end|>\n<|im_start|>assistant\n"
    assert policy.tokenizer.decode(first.observation_ids) == (in_chat if chat else first.observation)
