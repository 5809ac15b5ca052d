"""Which questions a search engine can answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from igsearch_env import answerable as module
from igsearch_env.answerable import answerable
from igsearch_env.questions import Question
from retrievers.base import Passage, Retriever


class Pages(Retriever):
    """Finds the pages whose titles are words of the query, in order; records the number of queries of each call."""

    def __init__(self, pages: dict[str, str]) -> None:
        self.pages = [Passage(str(n), title, text) for n, (title, text) in enumerate(pages.items())]
        self.calls: list[int] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.calls.append(len(queries))
        return [[page for page in self.pages if page.title in query.split()][:k] for query in queries]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        return self.pages[:n]

    def __len__(self) -> int:
        return len(self.pages)


PAGES = {"Ada": "Ada was born in Ulm.", "Ulm": "Ulm lies on the Danube.", "Bo": "Bo met Ada.", "Cy": "Nobody met Cy."}


def question(text: str, answer: str, *titles: str, number: int = 0) -> Question:
    """A question with one answer and its supporting titles."""
    return Question(str(number), text, (answer,), "made", {"supporting_titles": list(titles)})


@pytest.mark.parametrize(
    ("asked", "top_k", "kept"),
    [
        (question("where was Ada born", "Ulm"), 1, True),
        (question("where was Ada born", "Ul"), 1, False),  # whole words
        (question("where was Ada born", "Danube"), 1, False),
        (question("river of where Ada was born", "Danube", "Ada", "Ulm"), 1, True),  # its supporting page
        (question("what of Bo and Cy", "nobody"), 1, False),
        (question("what of Bo and Cy", "nobody"), 2, True),
        (question("did Bo meet Ada", "yes", "Bo", "Ada"), 1, True),  # both pages are there
        (question("did Bo meet Di", "yes", "Bo", "Di"), 1, False),
        (question("did Bo meet Ada", "yes"), 3, False),  # nothing says what to look for
        (question("nothing at all", "Ulm"), 3, False),
    ],
)
def test_an_answer_must_be_found_by_the_question_or_a_supporting_title(asked: Question, top_k: int, kept: bool) -> None:
    assert answerable([asked], Pages(PAGES), top_k) == ([asked] if kept else [])


def test_questions_are_searched_in_batches_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 4)
    asked = [question("where was Ada born", "Ulm" if n % 3 else "Rome", "Bo", number=n) for n in range(10)]
    engine, done = Pages(PAGES), list[int]()
    assert answerable(asked, engine, 1, done.append) == [q for q in asked if q.golden_answers == ("Ulm",)]
    assert engine.calls == [8, 8, 4]
    assert done == [4, 4, 2]
