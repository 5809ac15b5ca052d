"""Scoring that shares prefixes equals scoring that reads every branch from its first token."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from models import ARCHITECTURES, WINDOWED, bundled_policy, tiny_policy, turn_end

from algorithms.common.model.kv_cache import CachedPrefixes
from algorithms.common.model.packing import Pack
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer, measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from igsearch_env.episode import Episode
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import Baseline, ContextForm, InformationGain, InformationGainConfig
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import UnigramScorer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Group, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world


def ragged_trajectories(seed: int, family: str = "search_r1", count: int = 7) -> list[Trajectory]:
    """Episodes of random lengths whose queries are words of the questions."""
    rng = random.Random(seed)
    retriever, protocol = bundled_retriever(), make_protocol(family, "bare")
    trajectories = []
    for question in rng.sample(bundled_world().questions["train"], count):
        episode = Episode(question, EpisodeRules(protocol=protocol))
        for _ in range(rng.randint(1, 4)):
            words = question.text.rstrip("?").split()
            query = " ".join(rng.sample(words, rng.randint(1, len(words))))
            refine = f"<refine> {rng.choice(words)} </refine>\n" if family == "autorefine" else ""
            asked = episode.act(f"{refine}<search> {query}</search>")
            assert asked is not None
            episode.observe(retriever.search([asked], rng.randint(1, 3))[0])
        episode.act("<answer> x</answer>")
        trajectories.append(episode.trajectory)
    return trajectories


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("baseline", get_args(Baseline))
@pytest.mark.parametrize("context", get_args(ContextForm))
@pytest.mark.parametrize("family", ["search_r1", "autorefine"])
def test_shared_equals_plain(architecture: str, baseline: str, context: str, family: str) -> None:
    policy = tiny_policy(architecture)
    steps = search_steps(ragged_trajectories(1, family))
    config = InformationGainConfig(baseline=baseline, context=context)
    gains = [
        InformationGain(config, scorer, make_protocol(family), bundled_retriever()).measure(steps)
        for scorer in (
            PolicyScorer(policy, shared=False),
            PolicyScorer(policy),
            PolicyScorer(policy, pass_tokens=300),  # many small passes
        )
    ]
    plain = np.array([[g.value, g.logprob_real, g.logprob_baseline] for g in gains[0]])
    assert np.abs(plain[:, 0]).max() > 0.01  # there is something to compare
    for shared in gains[1:]:
        np.testing.assert_allclose([[g.value, g.logprob_real, g.logprob_baseline] for g in shared], plain, atol=1e-4)


def test_contexts_beyond_the_model_are_cut_on_the_left() -> None:
    policy = tiny_policy(context_length=160)
    steps = search_steps(ragged_trajectories(2))
    config = InformationGainConfig()
    values = [
        [g.value for g in InformationGain(config, s, make_protocol(), bundled_retriever()).measure(steps)]
        for s in (PolicyScorer(policy, shared=False), PolicyScorer(policy))
    ]
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[0], values[1], atol=1e-4)


def test_the_buffer_gives_the_numbers_that_the_environment_paid() -> None:
    config = InformationGainConfig(random_source="corpus")
    for make in (lambda: UnigramScorer(bundled_retriever()), lambda: PolicyScorer(tiny_policy())):
        scorer = make()
        questions = bundled_world().questions["train"]
        protocol = make_protocol("search_r1", "bare")
        engine = EpisodeStepper(
            questions, bundled_retriever(), scorer, EpisodeRules(protocol=protocol), information_gain=config
        )
        decoder = Decoder(bundled_policy(), turn_end(bundled_policy()), slots=4, max_new_tokens=8, temperature=1.0)
        buffer = collect(decoder, engine, questions[:3], group_size=2, seed=(0,))
        paid = [turn.gain.value for t in buffer.trajectories for turn in t.turns if turn.gain is not None]
        rewards = [turn.reward for t in buffer.trajectories for turn in t.turns if turn.gain is not None]
        assert len(paid) >= 3
        np.testing.assert_allclose(rewards, [config.stabilise(value) for value in paid], atol=1e-12)
        measure_information_gain(buffer, InformationGain(config, scorer, protocol, bundled_retriever(), seed=0))
        again = [turn.gain.value for t in buffer.trajectories for turn in t.turns if turn.gain is not None]
        np.testing.assert_allclose(again, paid, atol=1e-4)


def test_batch_pool_gives_the_same_numbers_where_the_pools_coincide() -> None:
    trajectories = ragged_trajectories(3, count=5)
    for trajectory in trajectories:
        del trajectory.turns[1:]
    scorer = UnigramScorer(bundled_retriever())
    measure = InformationGain(InformationGainConfig(), scorer, make_protocol("search_r1", "bare"), bundled_retriever())
    steps = search_steps(trajectories)
    expected = [gain.value for gain in measure.measure(steps)]
    buffer = RolloutBuffer([Group(t.question, [t]) for t in reversed(trajectories)])
    measure_information_gain(buffer, measure)
    assert [t.turns[0].gain.value for t in trajectories if t.turns[0].gain] == expected


# ---------------------------------------------------------------- what was read before


CONFIG = InformationGainConfig(random_source="corpus")
BARE = make_protocol("search_r1", "bare")


def rollout(policy: Policy, *, temperature: float = 1.0, slots: int = 8) -> tuple[RolloutBuffer, CachedPrefixes]:
    """Six episodes, and what the decoder has read of them."""
    questions = bundled_world().questions["train"]
    engine = EpisodeStepper(questions, bundled_retriever(), None, EpisodeRules(protocol=BARE))
    decoder = Decoder(policy, turn_end(policy), slots=slots, max_new_tokens=12, temperature=temperature)
    buffer = collect(decoder, engine, questions[:3], group_size=2, seed=(0,))
    return buffer, decoder.prefixes()


def gains(buffer: RolloutBuffer, scorer: PolicyScorer, config: InformationGainConfig = CONFIG) -> list[float]:
    """The three numbers of every search."""
    measure_information_gain(buffer, InformationGain(config, scorer, BARE, bundled_retriever()))
    found = [turn.gain for t in buffer.trajectories for turn in t.turns if turn.gain is not None]
    assert len(found) >= 6
    return [number for gain in found for number in (gain.value, gain.logprob_real, gain.logprob_baseline)]


def count_tokens(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that grows by the tokens and blocks of every pass."""
    passes, read = list[tuple[int, int]](), policy.forward_packed

    def counted(packed: Pack) -> torch.Tensor:
        passes.append((len(packed.ids_n), len(packed.first)))
        return read(packed)

    monkeypatch.setattr(policy, "forward_packed", counted)
    return passes


def recorded(buffer: RolloutBuffer) -> list[float]:
    """Log-probs of every token that the policy wrote."""
    return [logprob for t in buffer.trajectories for turn in t.turns for logprob in turn.logprobs]


@pytest.mark.parametrize("architecture", WINDOWED)
def test_shared_equals_plain_with_sliding_windows(architecture: str) -> None:
    policy, steps = tiny_policy(architecture), search_steps(ragged_trajectories(1))
    values = [
        [g.value for g in InformationGain(CONFIG, scorer, make_protocol(), bundled_retriever()).measure(steps)]
        for scorer in (PolicyScorer(policy, shared=False), PolicyScorer(policy), PolicyScorer(policy, pass_tokens=300))
    ]
    np.testing.assert_allclose(values[1:], [values[0]] * 2, atol=1e-4)


@pytest.mark.parametrize("baseline", get_args(Baseline))
@pytest.mark.parametrize("context", get_args(ContextForm))
@pytest.mark.parametrize("slots", [2, 8])
def test_prefixes_of_the_rollout_change_no_gain(baseline: str, context: str, slots: int) -> None:
    policy = bundled_policy()
    buffer, prefixes = rollout(policy, slots=slots)
    config = InformationGainConfig(random_source="corpus", baseline=baseline, context=context)
    plain = gains(buffer, PolicyScorer(policy, shared=False), config)
    np.testing.assert_allclose(gains(buffer, PolicyScorer(policy, prefixes=prefixes), config), plain, atol=1e-4)


def test_what_the_rollout_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = bundled_policy()
    buffer, everything = rollout(policy)
    _, some = rollout(policy, slots=2)  # fewer slots than episodes: only the last of them are held
    counts = []
    for prefixes in (everything, some, None):
        with monkeypatch.context() as patch:
            passes = count_tokens(policy, patch)
            gains(buffer, PolicyScorer(policy, prefixes=prefixes))
        counts.append(sum(tokens for tokens, _ in passes))
    requests, _ = InformationGain(CONFIG, PolicyScorer(policy), BARE, bundled_retriever()).requests(
        search_steps(buffer.trajectories)
    )
    trunks, _ = PolicyScorer(policy).plan(requests)
    assert counts[0] < counts[1] < counts[2]
    assert counts[2] - counts[0] == sum(map(len, trunks))


@pytest.mark.parametrize("pass_tokens", [40, 200, 10_000])
def test_no_pass_exceeds_the_budget_unless_one_block_does(pass_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = bundled_policy()
    buffer, prefixes = rollout(policy)
    passes = count_tokens(policy, monkeypatch)
    for known in (None, prefixes):
        gains(buffer, PolicyScorer(policy, pass_tokens=pass_tokens, prefixes=known))
    assert all(tokens <= pass_tokens or blocks == 1 for tokens, blocks in passes)
    assert pass_tokens > 40 or any(tokens > pass_tokens for tokens, _ in passes)


def test_branches_that_read_the_same_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, steps = tiny_policy(), search_steps(ragged_trajectories(4, count=2))
    information_gain = InformationGain(CONFIG, PolicyScorer(policy), make_protocol(), bundled_retriever())
    counts, values = [], []
    for times in (1, 3):
        with monkeypatch.context() as patch:
            passes = count_tokens(policy, patch)
            values.append([gain.value for gain in information_gain.measure(steps * times)])
        counts.append(sum(tokens for tokens, _ in passes))
    assert counts[0] == counts[1]
    np.testing.assert_allclose(values[1], values[0] * 3, atol=1e-4)


def test_a_second_golden_answer_costs_its_own_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, trajectories = tiny_policy(), ragged_trajectories(4, count=2)
    config = InformationGainConfig(baseline="previous", golden_answers="all")
    counts, values = [], []
    for answers in (("Pinrona",), ("Larreth",), ("Pinrona", "Larreth")):
        for trajectory in trajectories:
            trajectory.question = replace(trajectory.question, golden_answers=answers)
        steps = search_steps(trajectories)
        with monkeypatch.context() as patch:
            passes = count_tokens(policy, patch)
            values.append([g.logprob_real for g in InformationGain(config, PolicyScorer(policy), BARE).measure(steps)])
        counts.append(sum(tokens for tokens, _ in passes))
    np.testing.assert_allclose(values[2], np.logaddexp(values[0], values[1]), atol=1e-4)
    requests, _ = InformationGain(config, PolicyScorer(policy), BARE).requests(steps)
    trunks, _ = PolicyScorer(policy).plan(requests)
    assert counts[2] == counts[0] + counts[1] - sum(map(len, trunks))
