"""Turn-PPO: advantages and value targets per turn by their equations, and its options. The critic: test_ppo.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from buffers import mixed_buffer
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.ppo import PPO, PPOConfig
from algorithms.turn_ppo import TurnPPO, TurnPPOConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from retrievers import Passage

LENGTHS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4)
SHARES = st.floats(0, 1)


def drawn_buffer(lengths: list[list[int]], seed: int, *, observed: int = 2) -> RolloutBuffer:
    """Trajectories whose turns have these numbers of tokens, with drawn outcomes and values."""
    rng = np.random.default_rng(seed)
    seen = [9] * observed
    members = [
        trajectory([search_turn(range(n), observation_ids=seen) for n in counts], float(rng.integers(0, 3)) / 2)
        for counts in lengths
    ]
    buffer = buffer_of([members])
    buffer.values = rng.normal(size=int(buffer.policy_tokens.sum())).astype(np.float32)
    return buffer


def turn_ppo(**options: Any) -> TurnPPO:
    """Turn-PPO with these options."""
    return TurnPPO(TurnPPOConfig(**options))


@given(LENGTHS, SHARES, SHARES, st.booleans(), st.integers(0, 1000))
def test_the_tokens_of_a_turn_share_one_advantage_and_one_target(
    lengths: list[list[int]], gamma: float, lam: float, whiten: bool, seed: int
) -> None:
    buffer, algorithm = drawn_buffer(lengths, seed), turn_ppo(gamma=gamma, gae_lambda=lam, whiten=whiten)
    advantages, mask = algorithm.advantages(buffer), algorithm.value_mask(buffer)
    turns = [count for counts in lengths for count in counts]
    starts = np.cumsum(turns) - turns
    np.testing.assert_array_equal(np.flatnonzero(mask), starts)
    np.testing.assert_array_equal(advantages, np.repeat(advantages[starts], turns))
    assert not algorithm.value_targets(buffer)[~mask].any()
    if whiten and len(turns) > 1 and np.ptp(advantages) > 1e-3:  # over turns, however long they are
        assert advantages[starts].mean() == pytest.approx(0, abs=1e-5)
        assert advantages[starts].std(ddof=1) == pytest.approx(1, abs=1e-3)


@given(LENGTHS, st.integers(0, 1000))
def test_without_values_discount_and_whitening_it_is_the_outcome(lengths: list[list[int]], seed: int) -> None:
    buffer = drawn_buffer(lengths, seed)
    buffer.values = np.zeros_like(buffer.values)
    algorithm = turn_ppo(gamma=1.0, gae_lambda=1.0, whiten=False)
    np.testing.assert_array_equal(algorithm.advantages(buffer), buffer.broadcast(buffer.outcomes))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), SHARES, SHARES, st.integers(0, 1000))
def test_with_turns_of_one_token_it_is_ppo(counts: list[int], gamma: float, lam: float, seed: int) -> None:
    buffer = drawn_buffer([[1] * count for count in counts], seed)
    ours = turn_ppo(gamma=gamma, gae_lambda=lam)
    tokens = PPO(PPOConfig(gamma=gamma, gae_lambda=lam))
    np.testing.assert_array_equal(ours.advantages(buffer), tokens.advantages(buffer))
    np.testing.assert_array_equal(ours.value_targets(buffer), tokens.value_targets(buffer))
    assert ours.value_mask(buffer).all()


@given(LENGTHS, st.integers(0, 1000))
def test_only_values_at_the_beginning_of_a_turn_count(lengths: list[list[int]], seed: int) -> None:
    algorithm, buffer, other = turn_ppo(), drawn_buffer(lengths, seed), drawn_buffer(lengths, seed, observed=7)
    assert buffer.values is not None
    other.values = np.where(algorithm.value_mask(buffer), buffer.values, np.float32(50))
    np.testing.assert_array_equal(algorithm.advantages(other), algorithm.advantages(buffer))
    np.testing.assert_array_equal(algorithm.value_targets(other), algorithm.value_targets(buffer))


def gained_buffer() -> RolloutBuffer:
    """Two searches, of which the second one found nothing, and an answer; values 0.1, 0.2 and 0.4."""
    turns = [search_turn((2, 3), gain=1.0), search_turn((4,)), answer_turn((5, 6, 7))]
    turns[0].passages = (Passage("1", "a title", "a text"),)
    buffer = buffer_of([[trajectory(turns, 1.0)]])
    buffer.values = np.array([0.1, 9, 0.2, 0.4, 9, 9], dtype=np.float32)
    return buffer


def test_the_gain_of_a_search_is_the_reward_of_its_turn() -> None:
    gains = InformationGainConfig(soft_clip_form="hard", soft_clip=0.8)
    algorithm = turn_ppo(
        gamma=0.5, gae_lambda=0.0, whiten=False, turn_reward="gain", gain_weight=0.25, information_gain=gains
    )
    first, second, last = 0.25 * 0.8 + 0.5 * 0.2 - 0.1, 0.5 * 0.4 - 0.2, 1.0 - 0.4
    expected = [first, first, second, last, last, last]
    assert algorithm.advantages(gained_buffer()).tolist() == pytest.approx(expected, abs=1e-6)
    targets = algorithm.value_targets(gained_buffer())
    assert targets.tolist() == pytest.approx([first + 0.1, 0, second + 0.2, 1.0, 0, 0], abs=1e-6)
    assert algorithm.needs_information_gain
    assert not turn_ppo().needs_information_gain


def test_a_turn_without_a_token_is_no_step() -> None:
    whole, with_empty = (
        buffer_of([[trajectory([search_turn((2, 3)), *empty, answer_turn((4,)), *empty], 1.0)]])
        for empty in ([], [search_turn(())])
    )
    algorithm = turn_ppo(whiten=False)
    for buffer in (whole, with_empty):
        buffer.values = np.array([0.5, 0.0, 0.25], dtype=np.float32)
    np.testing.assert_array_equal(algorithm.advantages(with_empty), algorithm.advantages(whole))
    np.testing.assert_array_equal(algorithm.value_targets(with_empty), algorithm.value_targets(whole))


def test_kl_in_the_reward_is_summed_over_a_turn() -> None:
    buffer = mixed_buffer()
    buffer.values = np.zeros(13, dtype=np.float32)
    buffer.reference_logprobs = buffer.logprobs - np.float32(0.5)
    advantages = turn_ppo(gamma=1.0, gae_lambda=0.0, whiten=False, kl_in_reward=0.1).advantages(buffer)
    of_turns = [-0.1, 1.0 - 0.15, -0.1, -0.05, -0.2, 0.5 - 0.05]
    assert advantages.tolist() == pytest.approx(np.repeat(of_turns, [2, 3, 2, 1, 4, 1]).tolist(), abs=1e-6)


def test_what_the_buffer_lacks_is_named() -> None:
    for ask in (turn_ppo().advantages, turn_ppo().value_targets):
        with pytest.raises(RolloutBufferError, match=r"no values.*set buffer\.values"):
            ask(mixed_buffer())
    buffer = gained_buffer()
    buffer.trajectories[0].turns[0].gain = None
    with pytest.raises(RolloutBufferError, match="none of 2 searches has an information gain: measure it first"):
        turn_ppo(turn_reward="gain").advantages(buffer)
    assert np.isfinite(turn_ppo().advantages(buffer)).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 1.5}, r"gamma=1\.5: must be from 0 to 1"),
        ({"gae_lambda": -0.1}, r"gae_lambda=-0\.1: must be from 0 to 1"),
        ({"gain_weight": -1.0}, r"gain_weight=-1\.0: must be at least 0"),
        ({"kl_in_reward": -1.0}, r"kl_in_reward=-1\.0: must be at least 0"),
    ],
)
def test_an_unusable_option_is_named(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TurnPPOConfig(**options)  # type: ignore[arg-type]
