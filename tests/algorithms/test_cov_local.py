"""Cov-local beyond its golden numbers: which searches of a buffer are credited with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from algorithms.common.rollout.buffer import Float32s, RolloutBufferError
from algorithms.common.training.retrieved_evidence import new_evidence
from algorithms.cov_local import CovLocal, CovLocalConfig
from algorithms.grpo import GRPO, GRPOConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.trajectory import CONTEXT_FULL, Trajectory
from retrievers.base import Passage


def episode(
    found: Sequence[Sequence[str]], outcome: float = 0.0, titles: Sequence[str] = ("a", "b", "c")
) -> Trajectory:
    """A search per list of titles of pages that it found, each of four tokens, the middle two its query."""
    turns = [search_turn(range(4), (1, 3), passages=[Passage(t, t, f"about {t}") for t in pages]) for pages in found]
    played = trajectory([*turns, answer_turn((1,))], outcome)
    played.question = replace(played.question, metadata={"supporting_titles": list(titles)})
    return played


def credits(*members: Trajectory, **options: Any) -> list[list[float]]:
    """What Cov-local adds to GRPO on the query of each search; nothing may be added to other tokens."""
    buffer = buffer_of([members])
    added = CovLocal(CovLocalConfig(**options)).advantages(buffer) - GRPO(GRPOConfig()).advantages(buffer)
    result: list[list[float]] = [[] for _ in members]
    for row, _, tokens in buffer.query_tokens():
        result[row].append(float(added[tokens.start]))
        added[tokens] = 0
    assert not added.any()
    return result


def test_evidence_counts_when_it_is_found_first() -> None:
    played = episode([["a", "x"], ["a"], ["The B!", "c"], ["x"]], titles=("A", "b", "c", "never"))
    assert [event for _, event in new_evidence(played, "coverage")] == [0.25, 0.0, 0.5, 0.0]


def test_an_answer_is_matched_in_titles_and_texts_once() -> None:
    played = episode([["x"], ["Answer 0"], ["alias"]])
    assert [event for _, event in new_evidence(played, "answer_match")] == [0.0, 1.0, 0.0]


def test_a_query_is_compared_with_its_siblings_searches_at_the_same_step() -> None:
    one, two, three = credits(episode([["a"], []]), episode([[], ["a"]]), episode([[]]))
    assert one[0] > 0 > two[0] == pytest.approx(three[0])
    assert two[1] > 0 > one[1]
    assert sum([one[0], two[0], three[0]]) == pytest.approx(0, abs=1e-6)


def test_the_same_progress_from_other_starts_is_no_difference() -> None:
    """A second third of the evidence is worth as much as a first one."""
    assert credits(episode([["a"], ["b"]]), episode([["x"], ["b"]]))[0][1] == 0.0


def test_a_step_without_two_searches_has_nothing_to_compare() -> None:
    assert credits(episode([["x"], ["a"]]), episode([["x"]]))[0] == [0.0, 0.0]


def test_the_credit_of_a_search_is_spread_over_its_query() -> None:
    """L tokens of the whole search, of which |Q| = 2 are the query: the sum does not depend on the query's length."""
    one, other = episode([["a"]]), episode([["x"]])
    plain = credits(one, other)
    one.turns[0].search_span = (0, 4)
    assert credits(one, other)[0][0] == pytest.approx(2 * plain[0][0])
    assert credits(one, other, local_weight=0.25)[0][0] == pytest.approx(plain[0][0])


def test_an_episode_cut_short_by_the_context_is_left_out_of_the_comparison() -> None:
    cut = episode([["a", "b", "c"]])
    cut.stop_reason = CONTEXT_FULL
    members = [episode([["a"]]), episode([["x"]])]
    assert credits(cut, *members) == [[0.0], *credits(*members)]


def test_a_failed_group_learns_to_find_evidence_locally_or_by_its_rewards() -> None:
    members = [episode([["a"]]), episode([["x"]])]
    assert credits(*members)[0][0] > 0.3
    scalar = CovLocal(CovLocalConfig(credit="scalar")).advantages(buffer_of([members]))
    np.testing.assert_allclose(scalar, [0.7071] * 5 + [-0.7071] * 5, atol=1e-4)


def advantages(members: Sequence[Trajectory], **options: Any) -> Float32s:
    """Of one group."""
    return CovLocal(CovLocalConfig(**options)).advantages(buffer_of([members]))


def test_questions_that_name_no_evidence_are_refused_unless_answers_are_matched() -> None:
    members = [episode([["a"]], titles=()), episode([["alias"]], titles=())]
    assert not advantages(members).any()  # of an unanswerable question, which nothing supports
    for played in members:
        played.question = replace(played.question, metadata={})
    with pytest.raises(RolloutBufferError, match=r"none of 1 questions names its supporting titles.*answer_match"):
        advantages(members)
    assert advantages(members, signal="answer_match").any()
    assert not advantages([episode([[]], titles=()), episode([], titles=())]).any()  # nothing was found anyway


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"local_weight": -1.0}, "local_weight=-1"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"signal": "recall"}, "signal='recall'"),
        ({"credit": "global"}, "credit='global'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        CovLocalConfig(**options)
