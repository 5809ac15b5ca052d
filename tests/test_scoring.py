"""Scoring that shares prefixes equals scoring that reads every branch from its first token."""

from __future__ import annotations

import random

import numpy as np
import pytest
from models import ARCHITECTURES, tiny_policy

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.decoding import Decoder
from algorithms.common.rollout import collect
from algorithms.common.scoring import PolicyScorer, measure_information_gain
from igsearch_env.engine import SearchEngine
from igsearch_env.episode import Episode
from igsearch_env.information_gain import BASELINES, CONTEXTS, InformationGain, InformationGainConfig, search_steps
from igsearch_env.protocol import Protocol
from igsearch_env.scorers import UnigramScorer
from igsearch_env.trajectory import Group, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world


def ragged_trajectories(seed: int, family: str = "search_r1", count: int = 7) -> list[Trajectory]:
    """Episodes of random lengths whose queries are words of the questions."""
    rng = random.Random(seed)
    retriever, protocol = bundled_retriever(), Protocol(family, "bare")
    trajectories = []
    for question in rng.sample(bundled_world().questions["train"], count):
        episode = Episode(question, protocol, 4, "em")
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
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("family", ["search_r1", "autorefine"])
def test_shared_equals_plain(architecture: str, baseline: str, context: str, family: str) -> None:
    policy = tiny_policy(architecture)
    steps = search_steps(ragged_trajectories(1, family))
    config = InformationGainConfig(baseline=baseline, context=context)
    gains = [
        InformationGain(config, scorer, Protocol(family), bundled_retriever()).measure(steps)
        for scorer in (
            PolicyScorer(policy, shared=False),
            PolicyScorer(policy),
            PolicyScorer(policy, token_budget=300),  # many small passes
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
        [g.value for g in InformationGain(config, s, Protocol(), bundled_retriever()).measure(steps)]
        for s in (PolicyScorer(policy, shared=False), PolicyScorer(policy))
    ]
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[0], values[1], atol=1e-4)


def test_the_buffer_gives_the_numbers_that_the_environment_paid() -> None:
    config = InformationGainConfig(random_source="corpus")
    for make in (lambda: UnigramScorer(bundled_retriever()), lambda: PolicyScorer(tiny_policy())):
        scorer = make()
        questions = bundled_world().questions["train"]
        protocol = Protocol("search_r1", "bare")
        engine = SearchEngine(questions, bundled_retriever(), scorer, protocol=protocol, information_gain=config)
        decoder = Decoder(tiny_search_policy(), slots=4, max_new_tokens=8, temperature=1.0)
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
    measure = InformationGain(InformationGainConfig(), scorer, Protocol("search_r1", "bare"), bundled_retriever())
    steps = search_steps(trajectories)
    expected = [gain.value for gain in measure.measure(steps)]
    buffer = RolloutBuffer([Group(t.question, [t]) for t in reversed(trajectories)])
    measure_information_gain(buffer, measure)
    assert [t.turns[0].gain.value for t in trajectories if t.turns[0].gain] == expected


def tiny_search_policy():  # type: ignore[no-untyped-def]
    """The bundled policy: it searches, which random weights hardly ever do."""
    from algorithms.common.policy import Policy, PolicyConfig

    return Policy.load(PolicyConfig())
