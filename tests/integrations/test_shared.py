"""What the adapters share: batched steps, settings, and credit for episodes with the tokens of another sampler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
from adapters import LOCAL_ALGORITHMS, SETTINGS, local_buffer, local_episode, local_rows, scripted_turns, some_questions
from helpers import CountingRetriever
from models import bundled_policy

from algorithms.common.rollout.buffer import RolloutBufferError
from igsearch_env import Search
from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.trajectory import RETRIEVAL_FAILED
from integrations.batching import StepBatcher
from integrations.credit import TurnTokens, dump_episode, load_episode, record_tokens, token_advantages
from integrations.settings import SearchSettings, question_of, question_row
from retrievers import Passage


def test_steps_that_wait_are_run_together_and_earn_the_same() -> None:
    retriever = CountingRetriever(SearchSettings.of(SETTINGS).open().retriever)
    stepper = SearchSettings.of(SETTINGS).open()
    stepper.retriever = retriever
    batcher = StepBatcher(stepper)
    questions = some_questions() * 8

    async def play(number: int) -> list[float]:
        episode = stepper.begin(questions[number])
        return [await batcher.astep(episode, turn) for turn in scripted_turns(questions[number])]

    async def run() -> list[list[float]]:
        return list(await asyncio.gather(*map(play, range(len(questions)))))

    rewards = asyncio.run(run())
    assert rewards == [[turn.reward for turn in local_episode(question).turns] for question in questions]
    assert sum(map(len, retriever.calls)) == 2 * len(questions)
    assert len(retriever.calls) < len(questions)


def test_an_error_is_raised_in_the_episode_that_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = StepBatcher(SearchSettings.of(SETTINGS).open())
    questions = some_questions()
    search = batcher.stepper.search

    def fail(queries: Sequence[str]) -> list[list[Passage]]:
        if "bad" in queries:
            raise ZeroDivisionError("engine")
        return search(queries)

    monkeypatch.setattr(batcher.stepper, "search", fail)
    with pytest.raises(ZeroDivisionError):
        batcher.step(batcher.stepper.begin(questions[0]), Search("bad"))

    async def run() -> list[float | BaseException]:
        steps = [batcher.astep(batcher.stepper.begin(questions[0]), Search(query)) for query in ("bad", "x", "bad")]
        return await asyncio.gather(*steps, return_exceptions=True)

    first, middle, last = asyncio.run(run())
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(last, ZeroDivisionError)
    episode = batcher.stepper.begin(questions[0])
    assert middle == batcher.step(episode, Search("x"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"topk": 1}, "did you mean 'top_k'"),
        ({"top_k": "many"}, "top_k"),
        ({"scorer": "bigram"}, "must be one of 'unigram'"),
        ({"information_gain": {"basline": "empty"}}, "did you mean 'baseline'"),
        ({"max_searches": 0}, "max_searches"),
        ({"protocol": "tool_calls"}, "protocol of tags"),
    ],
    ids=["key", "type", "scorer", "gain", "range", "tool calls"],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SearchSettings.of(values).open()


def test_questions_as_plain_data() -> None:
    for question in some_questions():
        read = question_of(question_row(question), "row")
        assert read == question
        assert (read.supporting_titles, read.supporting_ids) == (question.supporting_titles, question.supporting_ids)
    for row in (None, "Who?", {"text": "Who?"}, {"golden_answers": 3}):
        with pytest.raises(QuestionError, match="row: "):
            question_of(row, "row")


@pytest.mark.parametrize("name", LOCAL_ALGORITHMS)
def test_advantages_of_loaded_episodes_equal_those_of_the_buffer(name: str) -> None:
    buffer = local_buffer()
    loaded = [load_episode(dump_episode(trajectory)) for trajectory in buffer.trajectories]
    values = token_advantages(name, loaded)
    assert values == [row.advantages[row.mask].tolist() for row in local_rows(name, buffer)]


def test_a_failed_retrieval_gets_none_and_does_not_count() -> None:
    group = deepcopy(local_buffer().groups[0].trajectories)
    without = token_advantages("grpo", group[1:])
    group[0].stop_reason = RETRIEVAL_FAILED
    values = token_advantages("grpo", group)
    assert values[1:] == without
    assert not any(values[0])
    assert token_advantages("grpo", group[:1]) == values[:1]
    assert token_advantages("grpo", []) == []


def test_what_can_not_be_credited_is_refused() -> None:
    group = deepcopy(local_buffer().groups[0].trajectories)
    with pytest.raises(ConfigurationError, match="needs a critic"):
        token_advantages("ppo", group)
    with pytest.raises(ConfigurationError, match="did you mean 'ig_grpo'"):
        token_advantages("ig-grpo", group)
    with pytest.raises(ConfigurationError, match="1 groups for"):
        token_advantages("grpo", group, ["a"])
    with pytest.raises(RolloutBufferError, match="no policy token"):
        token_advantages("grpo", [local_episode(some_questions()[0])])


def test_spans_behind_reasoning_that_the_endpoint_removed() -> None:
    policy = bundled_policy()
    recorded = next(t for t in local_buffer().trajectories if t.searches)
    number = next(n for n, turn in enumerate(recorded.turns) if turn.is_search)
    before = tuple(policy.tokenizer.encode("born city "))
    trajectory = deepcopy(recorded)
    tokens = [TurnTokens(before + turn.completion_ids) for turn in recorded.turns]
    record_tokens(trajectory, policy.tokenizer, SearchSettings().open().rules.protocol, tokens)
    span = trajectory.turns[number].query_span
    assert span is not None
    ids = trajectory.turns[number].completion_ids[span[0] : span[1]]
    assert policy.tokenizer.continued_text(ids).strip() == trajectory.turns[number].query
    with pytest.raises(ConfigurationError, match="tokens of 0 turns"):
        record_tokens(trajectory, policy.tokenizer, SearchSettings().open().rules.protocol, [])
