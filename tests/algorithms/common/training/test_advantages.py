"""Advantage estimators: what must hold for any rewards, and what GRPO and IG-GRPO make of a real buffer."""

from __future__ import annotations

import numpy as np
import pytest
from buffers import reward_buffer
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.training.advantages import all_equal_share, grpo_advantages, overlong_penalty
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig

REWARDS = st.floats(-10, 10, allow_nan=False).map(lambda value: round(value, 3))
LABELLED = st.lists(st.tuples(REWARDS, st.integers(0, 3)), min_size=1, max_size=24)
RAW = InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none")


def split(labelled: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r for r, _ in labelled]), np.array([g for _, g in labelled])


@given(LABELLED, st.booleans())
def test_advantages_of_a_group_sum_to_zero(labelled: list[tuple[float, int]], scale: bool) -> None:
    rewards, groups = split(labelled)
    advantages = grpo_advantages(rewards, groups, scale_by_std=scale)
    for group in set(groups[np.bincount(groups)[groups] > 1]):
        assert advantages[groups == group].sum() == pytest.approx(0, abs=1e-6)


@given(LABELLED, st.sampled_from([-7.0, 0.5, 3.0]), st.booleans())
def test_a_bonus_for_the_whole_group_changes_nothing(
    labelled: list[tuple[float, int]], shift: float, scale: bool
) -> None:
    rewards, groups = split(labelled)
    several = np.bincount(groups)[groups] > 1  # a group of one keeps its reward
    plain = grpo_advantages(rewards, groups, scale_by_std=scale)
    shifted = grpo_advantages(rewards + shift, groups, scale_by_std=scale)
    np.testing.assert_allclose(shifted[several], plain[several], atol=1e-6)


@given(st.lists(REWARDS, min_size=2, unique=True))
def test_scaled_advantages_forget_the_unit_of_the_reward(rewards: list[float]) -> None:
    groups = [0] * len(rewards)
    plain = grpo_advantages(rewards, groups, eps=0.0)
    np.testing.assert_allclose(grpo_advantages(8 * np.array(rewards), groups, eps=0.0), plain, atol=1e-6)
    assert np.std(plain, ddof=1) == pytest.approx(1.0)


@given(st.floats(-100, 100, allow_nan=False), st.integers(2, 12), st.booleans())
def test_equal_rewards_give_exactly_zero(reward: float, size: int, scale: bool) -> None:
    assert (grpo_advantages([reward] * size, [0] * size, scale_by_std=scale) == 0.0).all()


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 1e-3])
@pytest.mark.parametrize("size", [3, 6, 7, 10])
def test_equal_rewards_that_do_not_sum_exactly_give_exactly_zero(reward: float, size: int) -> None:
    assert (grpo_advantages([reward] * size, [0] * size) == 0.0).all()


def test_a_group_of_one_keeps_its_reward() -> None:
    assert grpo_advantages([0.7], [4], scale_by_std=False).tolist() == [0.7]
    assert grpo_advantages([0.7], [4], eps=0.25).tolist() == pytest.approx([0.7 / 1.25])
    assert grpo_advantages([0.0], [4]).tolist() == [0.0]


@given(LABELLED, st.data(), st.booleans())
def test_order_and_names_of_groups_do_not_matter(
    labelled: list[tuple[float, int]], data: st.DataObject, scale: bool
) -> None:
    rewards, groups = split(labelled)
    order = data.draw(st.permutations(range(len(rewards))))
    names = np.array([f"question {3 - group}" for group in groups])
    together = grpo_advantages(rewards, groups, scale_by_std=scale)
    interleaved = grpo_advantages(rewards[order], names[order], scale_by_std=scale)
    np.testing.assert_allclose(interleaved, together[order], atol=1e-9)


def test_groups_are_not_compared_with_each_other() -> None:
    alone = grpo_advantages([1.0, 0.0, 0.0], [0, 0, 0])
    beside = grpo_advantages([1.0, 9.0, 0.0, 5.0, 0.0, 7.0], [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(beside[::2], alone)


# ---------------------------------------------------------------- shares and lengths


@pytest.mark.parametrize(
    ("rewards", "groups", "share"),
    [
        ([0.1, 0.1, 0.1], [0, 0, 0], 1.0),
        ([1.0, 0.0], [0, 0], 0.0),
        ([1.0, 0.0, 1.0, 0.0], [0, 1, 0, 1], 1.0),
        ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0, 0, 1, 1, 1, 1], 0.5),
        ([1.0, 0.0, 3.0], [0, 0, 1], 0.5),
        ([], [], 0.0),
    ],
)
def test_all_equal_share_counts_groups(rewards: list[float], groups: list[int], share: float) -> None:
    assert all_equal_share(rewards, groups) == pytest.approx(share)


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0, 3), st.data())
def test_overlong_penalty_falls_from_zero_to_the_factor(
    buffer: int, rest: int, factor: float, data: st.DataObject
) -> None:
    longest = buffer + rest
    lengths = sorted(data.draw(st.lists(st.integers(0, longest), min_size=1)))
    penalties = overlong_penalty(lengths, max_length=longest, buffer_length=buffer, factor=factor)
    assert (np.diff(penalties) <= 0).all()
    assert penalties.min() >= -factor - 1e-12
    assert (penalties[np.array(lengths) <= rest] == 0.0).all()
    at_the_end = overlong_penalty([longest], max_length=longest, buffer_length=buffer, factor=factor)
    assert at_the_end[0] == pytest.approx(-factor)


# ---------------------------------------------------------------- the algorithms


def test_grpo_puts_the_advantage_of_a_trajectory_on_all_its_tokens() -> None:
    buffer = buffer_of(
        [
            [trajectory([answer_turn((5,))], 1.0), trajectory([search_turn((1, 2)), answer_turn((3, 4, 5))], 0.0)],
            [trajectory([answer_turn((5, 6))], 0.5, 1), trajectory([answer_turn((7, 8))], 0.5, 1)],
        ]
    )
    advantages = GRPO(GRPOConfig(scale_by_std=False)).advantages(buffer)
    assert advantages.tolist() == [0.5, *[-0.5] * 5, *[0.0] * 4]


def test_a_group_that_fails_teaches_grpo_nothing_and_ig_grpo_its_queries() -> None:
    first, second = (2, 5), (0, 1)
    buffer = buffer_of(
        [
            [
                trajectory([search_turn(range(9), first, 0.6, (7, 7)), answer_turn((3, 4))]),
                trajectory([search_turn(range(4), second, -0.2), answer_turn((3, 4))]),
            ]
        ]
    )
    assert (GRPO(GRPOConfig()).advantages(buffer) == 0.0).all()
    expected = np.zeros(9 + 2 + 4 + 2)
    expected[2:5] = 0.5 * 0.6 / 3
    expected[11] = 0.5 * -0.2
    advantages = IGGRPO(IGGRPOConfig(alpha=0.5, information_gain=RAW)).advantages(buffer)
    np.testing.assert_allclose(advantages, expected, atol=1e-7)
    assert ((advantages != 0) == (expected != 0)).all()


def test_ig_grpo_adds_stabilised_gains_to_the_advantages_of_grpo() -> None:
    gains = InformationGainConfig(dead_zone=0.3, negative_scale=0.5, soft_clip=1.0, soft_clip_form="hard")
    turns = [search_turn(range(6), (1, 5), gain) for gain in (0.2, -0.8, 5.0, None)]
    buffer = buffer_of([[trajectory(turns, 1.0), trajectory([answer_turn((3, 4))], 0.0)]])
    config = IGGRPOConfig(alpha=2.0, scale_by_std=False, information_gain=gains)
    bonus = IGGRPO(config).advantages(buffer) - GRPO(config).advantages(buffer)
    assert [bonus[6 * i + 1] for i in range(4)] == pytest.approx([0.0, 2 * -0.4 / 4, 2 * 1.0 / 4, 0.0])
    assert all(bonus[6 * i] == bonus[6 * i + 5] == 0.0 for i in range(4))


def test_an_alpha_of_zero_is_grpo() -> None:
    buffer = buffer_of([[trajectory([search_turn(range(4), (1, 3), 9.0)], float(won)) for won in (1, 0, 0)]])
    np.testing.assert_array_equal(
        IGGRPO(IGGRPOConfig(alpha=0.0)).advantages(buffer), GRPO(GRPOConfig()).advantages(buffer)
    )


def test_the_overlong_penalty_is_of_the_policy_tokens() -> None:
    long, short = [answer_turn(range(1, 9))], [search_turn((1, 2), observation_ids=range(50)), answer_turn((3,))]
    buffer = buffer_of([[trajectory(long, 1.0), trajectory(short, 1.0)]])
    limits = RolloutConfig(max_new_tokens=2)  # with four searches at most 10 tokens
    plain = GRPO(GRPOConfig(rollout=limits, scale_by_std=False)).advantages(buffer)
    penalised = GRPO(GRPOConfig(rollout=limits, scale_by_std=False, overlong_buffer=4)).advantages(buffer)
    assert (plain == 0.0).all()
    assert penalised.tolist() == pytest.approx([-0.25] * 8 + [0.25] * 3)


def test_dynamic_sampling_keeps_groups_whose_outcomes_differ() -> None:
    equal, different = reward_buffer([[0.5, 0.5], [0.5, 0.0]]).groups
    assert [GRPO(GRPOConfig(dynamic_sampling=True)).keep(g) for g in (equal, different)] == [False, True]
    assert [GRPO(GRPOConfig()).keep(g) for g in (equal, different)] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": -0.1}, "alpha=-0.1: must be at least 0"), ({"overlong_buffer": 10**6}, "overlong_buffer=1000000")],
)
def test_an_unusable_option_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        IGGRPOConfig(**options)  # type: ignore[arg-type]
