"""Which queries name an answer that was not read before."""

from __future__ import annotations

import pytest
from helpers import PASSAGES, QUESTIONS, make_env, played, search

from igsearch_env.protocols import PROTOCOLS, Answer, Search
from igsearch_env.questions import Question
from igsearch_env.unseen_answers import names_unseen_answer

BORN, OCCUPATION, _, RIVER = QUESTIONS  # answers: Tolona; botanist; Mira Sorel; Ostue


@pytest.mark.parametrize(
    ("question", "query", "expected"),
    [
        (BORN, "Tolona", True),
        (BORN, "was Alan Brin born in TOLONA?", True),
        (BORN, "Alan Brin born", False),
        (BORN, "Karith", False),  # a wrong guess names no golden answer
        (BORN, "Tolonas", False),  # whole words
        (OCCUPATION, "the botanist, Mira Sorel", True),
        (Question("n", "Who wrote it?", ("Alan Brin",), "x"), "Brin Alan", False),
        (Question("n", "Is Ostue or Lurm a river?", ("Ostue",), "x"), "Ostue", False),  # the question names it
        (Question("n", "Who is J. Brin?", ("Brin", "Alan Brin"), "x"), "Alan Brin", False),  # another name of it
        (Question("n", "Is Ostue a river?", ("yes", "Yes!"), "x"), "yes Ostue", False),
    ],
)
def test_a_first_query(question: Question, query: str, expected: bool) -> None:
    assert names_unseen_answer(played(question, (search(query), PASSAGES[:1])), 0) is expected


def test_an_answer_that_was_read_is_no_guess() -> None:
    for found, expected in ((PASSAGES[:1], False), (PASSAGES[1:2], False), (PASSAGES[3:4], True)):  # text, title, none
        trajectory = played(BORN, (search("Alan Brin"), found), ("a slip", ()), (search("Tolona"), PASSAGES[1:2]))
        assert [names_unseen_answer(trajectory, turn) for turn in range(3)] == [False, False, expected]


def test_only_what_the_observation_shows_was_read() -> None:
    trajectory = played(BORN, (search("Alan Brin"), PASSAGES[:1]), (search("Tolona"), PASSAGES[1:2]))
    trajectory.turns[0].observation = trajectory.turns[0].observation.replace(" in Tolona.", "")
    assert names_unseen_answer(trajectory, 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_turns_of_an_environment(protocol: str) -> None:
    """The page of Karith names its river."""
    for queries, expected in (
        (["Karith", "Ostue"], [False, False, False]),
        (["Lurm fog", "Ostue"], [False, True, False]),
    ):
        env = make_env(protocol=protocol, top_k=1)
        env.reset(options={"question": RIVER})
        for action in (*map(Search, queries), Answer("Ostue")):
            env.step(action)
        assert [names_unseen_answer(env.trajectory, turn) for turn in range(3)] == expected
