"""GRAFT beyond its golden numbers: what the graph of a group's trajectories credits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.trajectory_graph import state_values
from algorithms.graft import GRAFT, GRAFTConfig, states_of
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Invalid, Search
from igsearch_env.trajectory import Trajectory, Turn


def episode(outcome: float, found: Sequence[str], number: int = 0) -> Trajectory:
    """A search per letter (or text), whose query and result are the letter; every turn has one token."""
    turns = [replace(search_turn((1,)), action=Search(letter), observation=letter) for letter in found]
    return trajectory([*turns, answer_turn((1,))], outcome, number)


def plain(buffer: RolloutBuffer, **options: Any) -> Float32s:
    """Differences of values, without normalisation and discount."""
    given = {"gamma": 1.0, "graph_lambda": 0.0, "similarity": None, "normalise": False, **options}
    return GRAFT(GRAFTConfig(**given)).advantages(buffer)


def test_a_search_is_credited_with_what_siblings_achieved_from_where_it_led() -> None:
    """Both first episodes reach "a", from which one of two succeeds; nothing follows from "b"."""
    ours = plain(buffer_of([[episode(0.0, "a"), episode(1.0, "a"), episode(0.0, "b"), episode(0.0, "b")]]))
    np.testing.assert_allclose(ours, [0.25, -0.5, 0.25, 0.5, -0.25, 0.0, -0.25, 0.0], atol=1e-6)


def test_a_state_met_again_has_one_value() -> None:
    """V(q) = V(a), and V(a) = (V(a) + 1 + 0) / 3: the second search of "a" led nowhere."""
    ours = plain(buffer_of([[episode(1.0, "aa"), episode(0.0, "a")]]))
    np.testing.assert_allclose(ours, [0.0, 0.0, 0.5, 0.0, -0.5], atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_an_episode_whose_siblings_failed_is_not_compared_with_itself(normalise: bool) -> None:
    """Its search "a" is repeated, and the second one is nearer to the outcome."""
    buffer = buffer_of([[episode(1.0, "aa")], [episode(1.0, "a", 1), episode(0.0, "b", 1)]])
    assert np.abs(plain(buffer, gamma=0.5, normalise=normalise)[:3]).max() > 0.1
    buffer.groups[0].failed = 3
    ours = plain(RolloutBuffer(buffer.groups), gamma=0.5, normalise=normalise)
    assert ours[:3].tolist() == [0.0] * 3
    assert np.abs(ours[3:]).max() > 0.1


def test_a_long_history_is_another_state_than_its_continuation() -> None:
    """The seventh observation adds less than a tenth to what was read before."""
    long = [letter * 40 for letter in "abcdefghi"]
    buffer = buffer_of([[episode(1.0, long[:8]), episode(0.0, long[8:])]])
    ours = plain(buffer, gamma=0.9, state="history", similarity=0.9)
    assert abs(ours[0]) > 1e-3
    np.testing.assert_allclose(ours[1:9], 0.0, atol=1e-6)  # a chain that no sibling shares


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_values_solve_the_bellman_equation(gamma: float) -> None:
    """Through cycles too; "0 1 0 2" and "0 2 1" as episodes with outcomes 1 and 0."""
    nodes, lengths = np.array([0, 1, 0, 2, 0, 2, 1]), [4, 3]
    ours = state_values(nodes, lengths, [1.0, 0.0], gamma)
    transitions = np.zeros((3, 3))
    ends = np.zeros(3)
    for tail, head in ((0, 1), (1, 0), (0, 2), (0, 2), (2, 1)):
        transitions[tail, head] += 1
    ends[2], counts = 1.0, np.bincount(nodes)
    exact = np.linalg.solve(np.eye(3) - gamma * transitions / counts[:, None], gamma * ends / counts)
    np.testing.assert_allclose(ours, exact, atol=1e-9)


def test_later_hops_add_nothing_unless_an_action_is_repeated() -> None:
    """The residuals of the transitions from a state add up to 0, unless a repeated one is counted once."""
    different = buffer_of([[episode(1.0, "ab"), episode(0.0, "ac"), episode(0.4, "dbc"), episode(0.0, "d")]])
    for played in different.trajectories:
        played.turns[-1].action = Search(str(id(played)))  # no two answers are the same
    without = plain(different, gamma=0.9)
    np.testing.assert_allclose(plain(different, gamma=0.9, graph_lambda=0.9), without, atol=1e-7)
    repeated = buffer_of([[episode(1.0, "ab"), episode(0.0, "ac"), episode(0.0, "ac")]])
    assert np.abs(plain(repeated, graph_lambda=0.9) - plain(repeated)).max() > 0.01


def test_groups_do_not_share_states() -> None:
    one, other = [episode(1.0, "a"), episode(0.0, "b")], [episode(0.0, "a", 1), episode(0.0, "b", 1)]
    ours = plain(buffer_of([one, other]))
    np.testing.assert_array_equal(ours, [*plain(buffer_of([one])), *plain(buffer_of([other]))])
    assert not ours[4:].any()


def test_turns_from_one_state_are_normalised_and_a_turn_alone_keeps_its_sign() -> None:
    groups = [[episode(1.0, "a"), episode(1.0, "ba"), episode(0.0, "a")]]
    raw = plain(buffer_of(groups))
    ours = plain(buffer_of(groups), normalise=True)
    first, from_a, from_b = [0, 2, 5], [1, 4, 6], 2 + 1
    for places in (first, from_a):
        expected = (raw[places] - raw[places].mean()) / (raw[places].std(ddof=1) + 1e-6)
        np.testing.assert_allclose(ours[places], expected, atol=1e-4)
    assert raw[from_b] == 0.0 == ours[from_b]  # "b" leads to "a" and nowhere else: nothing changed
    discounted = plain(buffer_of(groups), normalise=True, gamma=0.9, graph_lambda=0.0)
    assert discounted[from_b] == pytest.approx(0.0, abs=1e-6)


def test_states_are_what_was_read_last_or_all_that_was_read() -> None:
    played = episode(1.0, "ab")
    played.turns.insert(1, Turn("??", Invalid("no tag"), observation="say again"))
    asked = played.question.text
    assert states_of(played, "observation") == [asked, "a", "", "b"]
    assert states_of(played, "history") == [asked, f"{asked}\na", f"{asked}\na", f"{asked}\na\nb"]


def test_one_observation_after_different_ones_is_one_state_or_two() -> None:
    groups = [[episode(1.0, "ac"), episode(0.0, "bc")]]
    assert plain(buffer_of(groups))[2::3].tolist() == [0.5, -0.5]  # both answers are from "c"
    assert not plain(buffer_of(groups), state="history")[[1, 2, 4, 5]].any()  # what follows "a" or "b" is decided


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"graph_lambda": -0.1}, "graph_lambda=-0.1"),
        ({"similarity": 2.0}, "similarity=2.0"),
        ({"state": "context"}, "state='context'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        GRAFTConfig(**options)
