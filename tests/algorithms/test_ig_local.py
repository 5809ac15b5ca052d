"""IG-local: what a search adds to the best that its episode knew, compared with the searches of its siblings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.rollout.buffer import RolloutBufferError
from algorithms.cov_local import CovLocal, CovLocalConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_local import IGLocal, IGLocalConfig, rises
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Invalid
from igsearch_env.trajectory import CONTEXT_FULL, Gain, Trajectory
from retrievers.base import Passage

TITLES = ("a", "b", "c", "d")


def measured(baseline: float, real: float) -> Gain:
    """The gain of a search that raises the answer's probability from one value to another."""
    return Gain(math.log(real / baseline), math.log(real), math.log(baseline))


def episode(gains: Sequence[tuple[float, float] | None], outcome: float = 0.0) -> Trajectory:
    """A search per pair of probabilities, each of four tokens, the middle two its query, then an answer."""
    turns = [search_turn(range(4), (1, 3)) for _ in gains]
    for turn, pair in zip(turns, gains, strict=True):
        turn.gain = None if pair is None else measured(*pair)
        turn.search_span = (0, 4)
    return trajectory([*turns, answer_turn((1,))], outcome)


def credits(*members: Trajectory, **options: Any) -> list[list[float]]:
    """What IG-local adds to GRPO on the query of each search; nothing may be added to other tokens."""
    buffer = buffer_of([members])
    added = IGLocal(IGLocalConfig(**options)).advantages(buffer) - GRPO(GRPOConfig()).advantages(buffer)
    result: list[list[float]] = [[] for _ in members]
    for row, _, tokens in buffer.query_tokens():
        assert np.ptp(added[tokens]) == 0
        result[row].append(float(added[tokens.start]))
        added[tokens] = 0
    assert not added.any()
    return result


@pytest.mark.parametrize(
    ("gains", "rise"),
    [
        ([(0.2, 0.7), (0.3, 0.9)], [0.5, 0.2]),  # over what the first search reached, not over the baseline
        ([(0.2, 0.7), (0.3, 0.7)], [0.5, 0.0]),  # a repetition
        ([(0.2, 0.6), (0.6, 0.1), (0.1, 0.6)], [0.4, 0.0, 0.0]),  # what a search undid is found again
        ([(0.5, 0.1), (0.1, 0.5), (0.5, 0.75)], [0.0, 0.0, 0.25]),  # back to what was known before any search
        ([(0.2, 0.29), (0.2, 0.31)], [0.0, 0.0]),  # below 0.1, then 0.31 - 0.29
        ([None, (0.1, 0.4), None, (0.2, 0.6)], [0.0, 0.3, 0.0, 0.2]),  # two that found no passage
    ],
)
def test_a_search_earns_what_it_adds_to_the_best_before_it(
    gains: Sequence[tuple[float, float] | None], rise: Sequence[float]
) -> None:
    assert [found for _, found in rises(episode(gains))] == pytest.approx(rise)


probability = st.floats(0.001, 1.0)


@given(st.lists(st.tuples(probability, probability), max_size=6))
def test_all_rises_of_an_episode_sum_to_no_more_than_its_highest_probability(gains: list[tuple[float, float]]) -> None:
    found = [rise for _, rise in rises(episode(gains))]
    assert all(rise == 0 or rise >= 0.1 for rise in found)
    assert sum(found) <= max((real for _, real in gains), default=0.0) + 1e-9


def test_credit_is_the_twice_standardised_rise_per_query_token() -> None:
    """Against a longhand calculation: three searches at step 1, two at step 2, one at step 3."""
    members = [
        episode([(0.1, 0.6), (0.6, 0.8), (0.8, 0.9)], 1.0),
        episode([(0.1, 0.3), (0.3, 0.35)]),
        episode([(0.1, 0.1)]),
    ]
    expected = []
    for values in ([0.5, 0.2, 0.0], [0.2, 0.0]):
        for _ in range(2):
            mean = sum(values) / len(values)
            std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
            values = [(value - mean) / (std + 1e-6) for value in values]
        expected.append([0.5 * 4 * value / 2 for value in values])
    (a1, b1, c1), (a2, b2) = expected
    for ours, longhand in zip(credits(*members), [[a1, a2, 0.0], [b1, b2], [c1]], strict=True):
        assert ours == pytest.approx(longhand, abs=1e-5)
    assert credits(*members, local_weight=0.25)[0][0] == pytest.approx(a1 / 2, abs=1e-5)


def test_gains_that_grow_with_the_evidence_give_the_credit_of_cov_local() -> None:
    """Standardised twice, a probability 0.1 + 0.8 phi ranks searches as the coverage phi does."""
    found = [["a", "b"], ["c"]], [["x"], ["a"]], [["d"], ["d"]], [["b"]]
    members = []
    for pages in found:
        share = [0.0]
        for n in range(len(pages)):
            share.append(len({title for some in pages[: n + 1] for title in some} & {*TITLES}) / len(TITLES))
        played = episode(
            [(0.1 + 0.8 * before, 0.1 + 0.8 * after) for before, after in pairwise(share)], share[-1] > 0.5
        )
        for turn, titles in zip(played.turns, pages, strict=False):
            turn.passages = tuple(Passage(title, title, f"about {title}") for title in titles)
        played.question = replace(played.question, metadata={"supporting_titles": list(TITLES)})
        members.append(played)
    buffer = buffer_of([members])
    ours = IGLocal(IGLocalConfig(invalid_penalty=0.0)).advantages(buffer)
    np.testing.assert_allclose(ours, CovLocal(CovLocalConfig()).advantages(buffer), atol=1e-4)
    assert np.abs(ours - GRPO(GRPOConfig()).advantages(buffer)).max() > 0.3


def test_a_turn_that_neither_searches_nor_answers_is_punished() -> None:
    members = [episode([(0.2, 0.7)]), episode([(0.2, 0.2), (0.2, 0.2)])]
    members[1].turns[1] = replace(members[1].turns[1], action=Invalid("no tag"), query_span=None, gain=None)
    added = IGLocal(IGLocalConfig()).advantages(buffer_of([members]))
    assert added[-5:].tolist() == pytest.approx([-0.5] * 4 + [0.0])
    assert not IGLocal(IGLocalConfig(invalid_penalty=0.0)).advantages(buffer_of([members]))[-5:].any()


def test_an_episode_cut_short_by_the_context_is_left_out_of_the_comparison() -> None:
    cut = episode([(0.1, 0.9)])
    cut.stop_reason = CONTEXT_FULL
    members = [episode([(0.1, 0.5)]), episode([(0.1, 0.1)])]
    assert credits(cut, *members) == [[0.0], *credits(*members)]


def test_gains_must_have_been_measured() -> None:
    buffer = buffer_of([[episode([None]), episode([None])]])
    assert not IGLocal(IGLocalConfig()).advantages(buffer).any()  # nothing was found
    buffer.trajectories[0].turns[0].passages = (Passage("a", "a", "about a"),)
    with pytest.raises(RolloutBufferError, match="information gain"):
        IGLocal(IGLocalConfig()).advantages(buffer)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="local_weight=-1"):
        IGLocalConfig(local_weight=-1.0)
