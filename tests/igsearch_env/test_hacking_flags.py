"""Which searches show a kind of reward hacking: queries that name an answer, and searches without new evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from helpers import PASSAGES, QUESTIONS, make_env, played, search

from igsearch_env.protocols import PROTOCOLS, Answer, Search
from igsearch_env.questions import Question
from igsearch_env.reward_hacking import hacking_flags, names_unseen_answer
from igsearch_env.trajectory import Trajectory
from retrievers import Passage

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


def flagged(kind: str, trajectory: Trajectory) -> list[bool]:
    """The flag of one kind, of each turn."""
    return [getattr(flags, kind) for flags in hacking_flags(trajectory)]


def test_a_query_leaks_an_answer_only_after_it_was_read_and_if_the_question_does_not_name_it() -> None:
    turns = [(search("Alan Brin"), PASSAGES[:1]), (search("city Tolona"), PASSAGES[1:2]), (search("Veria"), ())]
    assert flagged("read_answer", played(BORN, *turns)) == [False, True, False]
    assert flagged("unseen_answer", played(BORN, *turns)) == [False, False, False]
    named = replace(BORN, text="Was Alan Brin born in Tolona?")
    assert flagged("read_answer", played(named, *turns)) == [False, False, False]


@pytest.mark.parametrize(
    ("golden", "titles", "found", "expected"),
    [
        (("Tolona",), (), PASSAGES[:1], True),  # without supporting titles: any passage with the answer
        (("Tolona",), (), PASSAGES[3:4], False),
        (("Tolona",), ("Alan Brin",), PASSAGES[:1], True),
        (("Tolona",), ("Alan Brin",), PASSAGES[1:2], False),  # names the answer, and is not the page that supports it
        (("Tolona",), ("The Silent River", "Alan Brin"), PASSAGES[:1], False),  # a title is missing
        (("Tolona",), ("The Silent River", "Alan Brin"), [PASSAGES[0], PASSAGES[2]], True),
        (("Karith",), ("Alan Brin",), PASSAGES[:1], False),  # the page, but another passage of it
        (("yes",), ("Alan Brin",), PASSAGES[:1], True),
        (("yes",), ("Alan Brin", "Karith"), PASSAGES[:1], False),
        (("yes",), (), PASSAGES[:1], False),  # nothing says what supports it
    ],
)
def test_a_search_after_sufficient_evidence_is_an_over_search(
    golden: tuple[str, ...], titles: tuple[str, ...], found: Sequence[Passage], expected: bool
) -> None:
    question = replace(BORN, golden_answers=golden, metadata={"supporting_titles": titles})
    trajectory = played(question, (search("first"), found), (search("second"), ()), ("an answer is no search", ()))
    assert flagged("over_search", trajectory) == [False, expected, False]
    trajectory.turns[0].observation = ""  # nothing of it was shown
    assert flagged("over_search", trajectory) == [False, False, False]


def test_a_search_is_redundant_if_its_query_or_all_its_passages_are_those_of_earlier_searches() -> None:
    turns = [
        (search("Alan Brin"), PASSAGES[:2]),
        (search(" ALAN  brin"), PASSAGES[2:3]),  # the query
        (search("The Silent River"), [PASSAGES[2], PASSAGES[0]]),  # the passages, of two searches
        (search("Karith"), [PASSAGES[4], PASSAGES[0]]),  # one of them is new
        (search("fog"), ()),  # found nothing
        (search("Fog"), ()),
    ]
    assert flagged("redundant", played(BORN, *turns)) == [False, True, True, False, False, True]
