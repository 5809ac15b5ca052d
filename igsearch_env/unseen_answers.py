"""Queries that name the answer before the policy has read it: it guessed, or remembered, and did not learn it here.

Passages that a query with the answer retrieves tend to repeat it, so such a search can have a high information gain
whether or not they support the answer (`docs/algorithms.md`, "Guesses in queries").
"""

from __future__ import annotations

from igsearch_env.demonstrator import YES_NO, occurs, passages_read
from igsearch_env.rewards import normalize_answer
from igsearch_env.trajectory import Trajectory


def names_unseen_answer(trajectory: Trajectory, turn: int) -> bool:
    """Whether turn `turn` searches with a query that names a golden answer which nothing before it contains.

    A text contains an answer if the words of the answer stand in it one after another, both normalised as for exact
    match. What stands before the query is the question and the passages of earlier turns, as far as their observations
    show them. As soon as these contain one of the golden answers, naming any of them is no guess. Yes and no are
    answers that a query can't name. In scripts without spaces between words, an answer is found only where it stands
    alone.

    Args:
        trajectory: of which turns `0..turn` are read.
        turn: index of the turn. False if it is not a search.
    """
    query = trajectory.turns[turn].query
    if query is None:
        return False
    names = [a for a in trajectory.question.golden_answers if normalize_answer(a) not in YES_NO]
    if not any(occurs(name, query) for name in names):
        return False
    before = [trajectory.question.text]
    for passage in passages_read(trajectory, turn):
        before += [passage.title, passage.text]
    return not any(occurs(name, text) for name in names for text in before)
