"""Retrieval metrics: right values by hand, and what is left out of a mean."""

from __future__ import annotations

import math

import pytest

from algorithms.common.evaluation.retrieval import answer_hits, measure_retrieval, ndcg, page_hits
from igsearch_env.questions import Question
from retrievers import BM25Retriever, DictionaryRetriever, Passage

KARITH, LURM, OSTUE = (Passage(str(i), t, f"{t} text") for i, t in enumerate(("Karith", "Lurm", "The Ostue")))


def question(*titles: str, answer: str = "Lurm", dataset: str = "x", id: str = "1") -> Question:
    """A question with supporting titles."""
    return Question(id, f"Where is {id}?", (answer,), dataset, {"supporting_titles": list(titles)})


@pytest.mark.parametrize(
    ("titles", "found", "pages", "gain"),
    [
        (("Karith",), [KARITH, LURM], [1, 1, 1], 1.0),
        (("Lurm",), [KARITH, LURM], [0, 1, 1], 1 / math.log2(3)),
        (("Karith", "Lurm"), [KARITH, LURM], [0.5, 1, 1], 1.0),
        (("Karith", "Lurm"), [KARITH, KARITH], [0.5, 0.5, 0.5], 1 / (1 + 1 / math.log2(3))),
        (("ostue",), [OSTUE], [1, 1, 1], 1.0),
        (("Karith",), [], [0, 0, 0], 0.0),
        (("Karith",), [LURM] * 3 + [KARITH], [0, 0, 1], 1 / math.log2(5)),
        (("Karith",), [LURM] * 10 + [KARITH], [0, 0, 0], 0.0),
    ],
)
def test_pages(titles: tuple[str, ...], found: list[Passage], pages: list[float], gain: float) -> None:
    assert page_hits(question(*titles), found) == pages
    assert ndcg(question(*titles), found) == pytest.approx(gain)


def test_answers_are_whole_words() -> None:
    assert answer_hits(question(answer="Lurm"), [KARITH, Passage("9", "", "Lurmish"), LURM]) == [0.0, 1.0, 1.0]
    assert answer_hits(question(answer="The Lurm!"), [LURM]) == [1.0, 1.0, 1.0]


def test_means_are_those_of_questions_whose_pages_are_known() -> None:
    engine = DictionaryRetriever({"Where is 1?": [KARITH], "Where is 2?": [LURM], "Where is 3?": [OSTUE]})
    asked = [question("Karith", id="1"), question(id="2"), question("Karith", id="3"), question(id="1", dataset="y")]
    found = measure_retrieval(asked, engine, batch_size=2)
    assert found.pages["x"] == [0.5, 0.5, 0.5]
    assert found.ndcg["x"] == [0.5]
    assert found.answers == {"x": [1 / 3] * 3, "y": [0.0] * 3}
    assert all(map(math.isnan, [*found.pages["y"], *found.ndcg["y"]]))


def test_depth_is_bounded_by_the_corpus() -> None:
    assert measure_retrieval([question("Karith")], BM25Retriever([KARITH, LURM])).pages["x"] == [0, 0, 0]
