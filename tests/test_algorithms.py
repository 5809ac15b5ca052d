"""What each algorithm makes of a buffer, beyond its golden numbers, and that each one trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffers import answer_turn, buffer_of, reward_buffer, search_turn, trajectory
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.config import EnvConfig, RolloutConfig, TrainConfig
from algorithms.common.estimators import discounted_sums, gae, rloo_advantages, whiten
from algorithms.common.logs import read_metrics
from algorithms.common.trainer import train
from algorithms.gigpo import GiGPO, GiGPOConfig, anchor_clusters, anchor_states
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.igpo import IGPO, IGPOConfig
from algorithms.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from algorithms.rloo import RLOO
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocol import Invalid
from igsearch_env.trajectory import Gain, Trajectory, Turn
from igsearch_env.world.bundled import bundled_world

EVERY: list[tuple[Any, Any]] = [
    (RLOO, TrainConfig),
    (ReinforcePlusPlus, ReinforcePlusPlusConfig),
    (GiGPO, GiGPOConfig),
    (IGPO, IGPOConfig),
]
VALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=1, max_size=12)


def episode(outcome: float, observations: list[str], number: int = 0) -> Trajectory:
    """A search per observation, then an answer."""
    turns = [search_turn(range(5)) for _ in observations]
    for turn, text in zip(turns, observations, strict=True):
        turn.observation = text
    return trajectory([*turns, answer_turn(range(4))], outcome, number)


# ---------------------------------------------------------------- shared pieces


@given(VALUES)
def test_leave_one_out_compares_with_the_others(rewards: list[float]) -> None:
    ours = rloo_advantages(rewards, [0] * len(rewards))
    for i, reward in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :]
        assert ours[i] == pytest.approx(reward - np.mean(others) if others else reward, abs=1e-9)


@given(VALUES)
def test_whitened_values_have_mean_0_and_deviation_1(values: list[float]) -> None:
    whitened = whiten(values)
    assert whitened.mean() == pytest.approx(0, abs=1e-6)
    if np.ptp(values) > 0.1:
        assert whitened.std(ddof=1) == pytest.approx(1, abs=1e-3)


@given(VALUES, st.floats(0, 1))
def test_gae_with_lambda_1_is_the_return_minus_the_value(rewards: list[float], gamma: float) -> None:
    values = np.sin(np.arange(len(rewards)))
    expected = discounted_sums(rewards, gamma) - values
    np.testing.assert_allclose(gae(rewards, values, gamma=gamma, lam=1.0), expected, atol=1e-9)


# ---------------------------------------------------------------- REINFORCE++


def test_returns_cross_observations_and_are_whitened_over_the_batch() -> None:
    buffer = buffer_of([[episode(1.0, ["x"]), episode(0.0, [])], [episode(0.0, ["y", "z"], 1)]])
    ours = ReinforcePlusPlus(ReinforcePlusPlusConfig()).advantages(buffer)
    np.testing.assert_allclose(ours, whiten(buffer.broadcast(buffer.outcomes)), atol=1e-6)
    assert len(set(ours[:9].tolist())) == 1  # before and after the observation


def test_a_discount_counts_policy_tokens_only() -> None:
    plain = buffer_of([[episode(1.0, ["x"]), episode(0.0, [])]])
    ours = ReinforcePlusPlus(ReinforcePlusPlusConfig(gamma=0.5)).advantages(plain)
    returns = np.concatenate([0.5 ** np.arange(8, -1, -1.0), np.zeros(4)])
    np.testing.assert_allclose(ours, whiten(returns), atol=1e-6)


def test_the_group_baseline_removes_what_a_group_shares() -> None:
    config = ReinforcePlusPlusConfig(group_baseline=True)
    ours = ReinforcePlusPlus(config).advantages(reward_buffer([[1, 1, 1], [0, 0, 1]]))
    assert np.abs(ours[:9]).max() < 1e-12
    assert ours[-1] > 0 > ours[9]


# ---------------------------------------------------------------- GiGPO


def test_anchors_are_what_was_observed_right_before() -> None:
    played = episode(1.0, ["\n\nfirst\n\n", "\n\nsecond\n\n"])
    played.turns.insert(1, Turn("??", Invalid("no tag"), observation="say again"))
    assert anchor_states(played) == [played.question.text, "first", "", "second"]


def test_equal_anchors_of_other_questions_are_not_compared() -> None:
    assert anchor_clusters(["a", "a", "a", "b"], [0, 1, 0, 0], None).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("similarity", [None, 0.9])
def test_similar_anchors_join_the_first_cluster_like_them(similarity: float | None) -> None:
    text = "the quick brown fox jumps over the lazy dog again and again"
    expected = [0, 0, 1] if similarity else [0, 1, 2]
    assert anchor_clusters([text, text + ".", "another"], [0, 0, 0], similarity).tolist() == expected


def test_gigpo_without_its_second_comparison_is_grpo() -> None:
    buffer = buffer_of([[episode(float(i % 2), ["x"] * (i % 3)) for i in range(4)]])
    options = {"omega": 0.0, "episode_statistics": "trajectory"}
    np.testing.assert_allclose(
        GiGPO(GiGPOConfig(**options)).advantages(buffer), GRPO(GRPOConfig()).advantages(buffer), atol=1e-6
    )


def test_a_turn_from_a_shared_anchor_earns_more_where_it_led_to_the_answer() -> None:
    good, bad = episode(1.0, ["same"]), episode(0.0, ["same"])
    ours = GiGPO(GiGPOConfig()).advantages(buffer_of([[good, bad]]))
    alone = GiGPO(GiGPOConfig(omega=0.0)).advantages(buffer_of([[good, bad]]))
    assert (ours[:9] > alone[:9]).all()
    assert (ours[9:] < alone[9:]).all()


def test_an_invalid_action_costs_its_own_turn() -> None:
    def advantages(penalty: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        played = episode(0.0, ["a"])
        played.turns[0].action = Invalid("no tag")
        return GiGPO(GiGPOConfig(invalid_penalty=penalty)).advantages(buffer_of([[played, episode(1.0, ["b"])]]))

    change = advantages(0.5) - advantages(0.0)
    assert change[:5].max() < 0


# ---------------------------------------------------------------- IGPO


def with_gains(outcome: float, gains: list[tuple[float, float]]) -> Trajectory:
    """Searches whose golden answer had these log-probs before and after."""
    played = episode(outcome, ["x"] * len(gains))
    for turn, (before, after) in zip(played.turns, gains, strict=False):
        turn.gain = Gain(after - before, after, before)
    return played


def test_a_turn_earns_its_gain_and_all_that_follows() -> None:
    buffer = buffer_of([[with_gains(0.0, [(-3.0, -0.1), (-0.1, -0.1)]), with_gains(0.0, [(-3.0, -3.0), (-3.0, -3.0)])]])
    ours = IGPO(IGPOConfig()).advantages(buffer)
    assert ours[0] > 0 > ours[14]  # the first search of each
    assert ours[0] > ours[5]  # the second one brought nothing
    assert len(set(ours[:5].tolist())) == 1


def test_a_search_without_a_gain_carries_what_follows() -> None:
    buffer = buffer_of([[episode(1.0, ["x"]), episode(0.0, ["x"])]])
    ours = IGPO(IGPOConfig(normalisation="separate")).advantages(buffer)
    np.testing.assert_allclose(ours, [1.0] * 9 + [-1.0] * 9, atol=1e-4)


def test_igpo_wants_the_turn_before_as_its_baseline() -> None:
    with pytest.raises(ConfigurationError, match="previous"):
        IGPOConfig(information_gain=InformationGainConfig())


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(("algorithm", "config_class"), EVERY, ids=[a.name for a, _ in EVERY])
def test_it_trains(algorithm: Any, config_class: Any, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        for q in bundled_world().questions["train"][:6]
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_class(
        steps=2,
        eval_every=0,
        run_dir=tmp_path / "run",
        env=EnvConfig(questions=(str(questions),), eval_questions=(str(questions),)),
        rollout=RolloutConfig(questions=3, group_size=4, max_new_tokens=16),
    )
    train(algorithm(config), config)
    steps = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["policy/grad_norm"] > 0 for row in steps)
    assert ("information_gain/mean" in steps[0]) == algorithm.needs_information_gain
