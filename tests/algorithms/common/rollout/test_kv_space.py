"""Episodes hold the rows that they need, within the limit; where they grow beyond, some are read again, with no effect
on what they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ARCHITECTURES, WINDOWED, bundled_policy, tiny_policy, turn_end

from algorithms.common.model.kv_spans import Span
from algorithms.common.model.policy import Policy
from algorithms.common.rollout import kv_space
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.kv_space import KVSpace, limited_rows
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world

Ids = tuple[int, ...]

# ---------------------------------------------------------------- accounting


def lengths_of_turns(episodes: int) -> list[list[int]]:
    """Tokens of episodes before each of their turns, then at their end: 2,030 in the mean and 5,622 at most."""
    random = np.random.default_rng(0)
    found = []
    for number in range(episodes):
        turns = 6 if number == episodes // 2 else 1 + int(random.choice(6, p=[0.05, 0.16, 0.22, 0.28, 0.16, 0.13]))
        written = np.full(turns, 512) if number == episodes // 2 else np.minimum(random.exponential(118, turns), 512)
        ends = [300]
        for tokens in written:
            ends += [ends[-1] + int(tokens), ends[-1] + int(tokens) + 450]
        found.append([*ends[:-1:2], ends[-2]])
    return found


@pytest.mark.parametrize("aligned", [False, True])
def test_160_episodes_fit_where_73_whole_contexts_did(aligned: bool) -> None:
    context, limit, turn = 7_168, 524_288, 512
    assert limit // context == 73
    lengths = lengths_of_turns(160)
    ends = [episode[-1] for episode in lengths]
    assert np.mean(ends) == pytest.approx(2_030, rel=0.03)
    assert max(ends) == 5_622
    space = KVSpace(limited_rows(limit, context), context, aligned=aligned)
    for number in range(6):
        for slot, episode in enumerate(lengths):
            if number < len(episode) - 1:
                assert space.grow(slot, episode[number] + turn)
            elif slot in space.live:
                space.end(slot)
    assert len(space.live | space.ended) == 160 or aligned  # and all of them are still readable


def test_a_whole_context_always_fits() -> None:
    for tokens, context in ((1, 100), (399, 100), (7_000, 7_168)):
        space = KVSpace(limited_rows(tokens, context), context, aligned=True)
        assert space.grow(0, context)
        assert not space.grow(1, context) or tokens >= 2 * 128


def test_an_episode_that_does_not_fit_keeps_its_rows_and_ended_ones_give_way() -> None:
    space = KVSpace(1_024, 1_024, aligned=True)
    for slot in range(4):
        assert space.grow(slot, 256)
    before = dict(space.live)
    assert not space.grow(1, 300)
    assert space.live == before
    space.end(0)
    space.end(2)
    assert space.grow(1, 300)
    assert space.ended.keys() == {2}  # the first one that ended has gone
    assert space.live[1] == Span(0, 320)


# ---------------------------------------------------------------- the decoder


@dataclass
class Read:
    """Tokens that a decoder has read in prefill passes."""

    tokens: int = 0


def played(
    policy: Policy, kv_cache_tokens: int, monkeypatch: pytest.MonkeyPatch, slots: int = 12
) -> tuple[list[Trajectory], Decoder, Read]:
    """Twelve episodes of short turns."""
    questions = bundled_world().questions["train"][:12]
    decoder = Decoder(
        policy,
        turn_end(policy),
        slots=slots,
        max_new_tokens=16,
        temperature=1.0,
        kv_cache_tokens=kv_cache_tokens,
    )
    read, prefill = Read(), decoder._unread

    def counted(slot: int) -> list[int]:
        ids = prefill(slot)
        read.tokens += len(ids)
        return ids

    monkeypatch.setattr(decoder, "_unread", counted)
    rules = EpisodeRules(protocol=make_protocol("search_r1", "bare"), top_k=4)
    stepper = EpisodeStepper(questions, bundled_retriever(), None, rules)
    return play(decoder, stepper, questions, seed=(3,)), decoder, read


def turns_of(trajectory: Trajectory) -> list[tuple[Ids, Ids]]:
    return [(turn.completion_ids, turn.observation_ids) for turn in trajectory.turns]


@pytest.mark.parametrize("kv_cache_tokens", [1, 640, 1_000, 1_600])
def test_any_size_of_the_cache_gives_the_same_episodes(kv_cache_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_space, "FIRST", 64)
    policy = bundled_policy(context_length=448)
    expected, _, least = played(policy, 100_000, monkeypatch)
    trajectories, decoder, read = played(policy, kv_cache_tokens, monkeypatch)
    assert [turns_of(t) for t in trajectories] == [turns_of(t) for t in expected]
    assert max(t.tokens for t in trajectories) > 128  # some outgrow what they begin with
    for turn, same in zip(*(chain.from_iterable(t.turns for t in x) for x in (trajectories, expected)), strict=True):
        np.testing.assert_allclose(turn.logprobs, same.logprobs, atol=1e-4)
    assert decoder.store.rows <= limited_rows(kv_cache_tokens, 448)
    assert decoder.free >= 1
    assert read.tokens >= least.tokens


def test_an_episode_that_is_preempted_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_space, "FIRST", 64)
    policy = bundled_policy(context_length=448)
    _, _, least = played(policy, 100_000, monkeypatch)
    _, _, read = played(policy, 1_000, monkeypatch)
    assert read.tokens > least.tokens


def finish(decoder: Decoder) -> dict[int, Completion]:
    finished: dict[int, Completion] = {}
    while decoder.writing:
        finished |= dict(decoder.decode_step())
    return finished


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_episodes_that_wait_and_are_preempted_in_the_middle_of_turns_write_the_same(data: st.DataObject) -> None:
    """Observations come at any time, as in an asynchronous loop; the cache has room for two or three episodes."""
    policy = tiny_policy(context_length=640)
    prompts = [tuple(policy.tokenizer.encode(f"Who wrote book {n}?\n" * (2 + n))) for n in range(6)]
    observation = policy.tokenizer.encode("<information>Doc 1(Title: x) y, which is longer</information>\n" * 2)

    def decoder_of(tokens: int) -> Decoder:
        return Decoder(policy, turn_end(policy), slots=6, max_new_tokens=7, temperature=1.0, kv_cache_tokens=tokens)

    expected: list[list[Ids]] = []
    for row, prompt in enumerate(prompts):
        alone = decoder_of(100_000)
        slot = alone.begin(prompt, np.random.default_rng(row))
        expected.append([])
        for _ in range(3):
            alone.prefill()
            expected[-1].append(finish(alone)[slot].ids)
            alone.append_observation(slot, observation)
    decoder = decoder_of(data.draw(st.sampled_from([640, 900, 1_200])))
    rows: dict[int, int] = {}
    written: list[list[Ids]] = [[] for _ in prompts]
    searching: list[int] = []
    waiting = list(range(len(prompts)))
    steps = 0
    while waiting or rows:
        steps += 1
        assert steps < 2_000
        while waiting and decoder.free:
            row = waiting.pop(0)
            rows[decoder.begin(prompts[row], np.random.default_rng(row))] = row
        answered = data.draw(st.integers(0 if decoder.writing else min(1, len(searching)), len(searching)))
        for slot in searching[:answered]:
            decoder.append_observation(slot, observation)
        del searching[:answered]
        decoder.prefill()
        for slot, completion in decoder.decode_step():
            written[rows[slot]].append(completion.ids)
            if len(written[rows[slot]]) == 3:
                decoder.end(slot)
                del rows[slot]
            else:
                searching.append(slot)
    assert written == expected


def test_admission_counts_what_episodes_have_needed() -> None:
    policy = tiny_policy(context_length=1_024)
    decoder = Decoder(policy, turn_end(policy), slots=16, max_new_tokens=8, temperature=0.0, kv_cache_tokens=4_096)
    assert decoder.free == 16
    slot = decoder.begin([5] * 600)
    assert decoder.free == (4_096 - 640) // 256
    decoder.end(slot)
    assert decoder.free == 6  # they may need as much
    decoder.begin([5] * 20)
    assert decoder.free == 5


# ---------------------------------------------------------------- spans up to the end of the cache

NEW = 6  # tokens of a turn


def several(policy: Policy, slots: int, kv_cache_tokens: int = 100_000) -> Decoder:
    """A decoder of short turns."""
    return Decoder(
        policy, turn_end(policy), slots=slots, max_new_tokens=NEW, temperature=1.0, kv_cache_tokens=kv_cache_tokens
    )


def ids_of(tokens: int, number: int) -> list[int]:
    """Tokens of a prompt or an observation."""
    ids: list[int] = np.random.default_rng([tokens, number]).integers(10, 300, tokens).tolist()
    return ids


def turns_alone(policy: Policy, number: int, lengths: Sequence[int]) -> list[Completion]:
    """The turns of an episode by itself: after a prompt of `lengths[0]` tokens, and after each observation."""
    decoder, turns = several(policy, 1), list[Completion]()
    slot = decoder.begin(ids_of(lengths[0], number), np.random.default_rng(number))
    for place in range(len(lengths)):
        if place:
            decoder.append_observation(slot, ids_of(lengths[place], number))
        decoder.prefill()
        turns.append(finish(decoder)[slot])
    return turns


def turns_together(policy: Policy, decoder: Decoder, episodes: Sequence[Sequence[int]]) -> list[list[Completion]]:
    """The same of many episodes, which begin and continue as soon as they can."""
    turns: list[list[Completion]] = [[] for _ in episodes]
    numbers: dict[int, int] = {}
    waiting = list(range(len(episodes)))
    while waiting or numbers:
        while waiting and decoder.free:
            number = waiting.pop(0)
            slot = decoder.begin(ids_of(episodes[number][0], number), np.random.default_rng(number))
            numbers[slot] = number
        decoder.prefill()
        assert decoder.store.rows == decoder.space.high <= decoder.space.rows  # no row more than the spans
        for slot, completion in decoder.decode_step():
            number = numbers[slot]
            turns[number].append(completion)
            if len(turns[number]) == len(episodes[number]):
                decoder.end(slot)
                del numbers[slot]
            else:
                decoder.append_observation(slot, ids_of(episodes[number][len(turns[number])], number))
    return turns


def assert_same_turns(got: list[list[Completion]], expected: list[list[Completion]]) -> None:
    for turn, same in zip(chain.from_iterable(got), chain.from_iterable(expected), strict=True):
        assert turn.ids == same.ids
        np.testing.assert_allclose(turn.logprobs, same.logprobs, atol=1e-4)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *WINDOWED])
@pytest.mark.parametrize(
    "episodes",
    [
        [[480], [290]],  # both on a grid of 512 rows; the last one has 320 rows up to the end of the cache
        [[290], [480]],
        [[480], [290], [290]],
        [[300, 30], [20, 260]],  # they grow there
        [[480], [90], [300], [480], [270]],
        [[900], [480], [600], [290]],  # of two grids
    ],
    ids=str,
)
def test_the_last_sequence_of_the_cache_may_be_shorter_than_others(
    architecture: str, episodes: list[list[int]]
) -> None:
    policy = tiny_policy(architecture, context_length=1_024)
    got = turns_together(policy, several(policy, len(episodes)), episodes)
    assert_same_turns(got, [turns_alone(policy, number, lengths) for number, lengths in enumerate(episodes)])


lengths_of_episodes = st.lists(st.integers(1, 500) | st.sampled_from([250, 251, 506]), min_size=1, max_size=2)


@settings(max_examples=25, deadline=None)
@given(
    episodes=st.lists(lengths_of_episodes, min_size=2, max_size=5),
    slots=st.integers(2, 5),
    kv_cache_tokens=st.sampled_from([1, 1_100, 1_600, 2_500, 100_000]),
)
def test_episodes_of_any_lengths_write_what_they_write_alone(
    episodes: list[list[int]], slots: int, kv_cache_tokens: int
) -> None:
    policy = tiny_policy(context_length=1_024)
    got = turns_together(policy, several(policy, slots, kv_cache_tokens), episodes)
    assert_same_turns(got, [turns_alone(policy, number, lengths) for number, lengths in enumerate(episodes)])
