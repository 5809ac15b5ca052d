"""Questions that a search engine can answer: a small policy learns little from those that it can't.

A group of rollouts that are all wrong has no outcome signal. In a corpus that holds only part of an encyclopaedia, that
is most groups of most question sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from igsearch_env.demonstrator import answer_in
from igsearch_env.questions import Question
from retrievers.base import Passage, Retriever

BATCH = 256  # questions that are searched together


def answerable(
    questions: Sequence[Question], retriever: Retriever, top_k: int, done: Callable[[int], None] | None = None
) -> list[Question]:
    """The questions with an answer among the `top_k` passages of a search for the question, or for a supporting title.

    An answer of yes or no counts as found with the pages of all supporting titles, if these are known.

    Args:
        questions: with `supporting_titles` where these are known.
        top_k: passages per search.
        done: called with the number of questions after each batch.
    """
    kept: list[Question] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        queries = [[question.text, *question.supporting_titles] for question in batch]
        found = iter(retriever.search([query for some in queries for query in some], top_k))
        for question, some in zip(batch, queries, strict=True):
            passages = [passage for _ in some for passage in next(found)]
            if answer_in(question, unique(passages)) is not None:
                kept.append(question)
        if done is not None:
            done(len(batch))
    return kept


def unique(passages: Sequence[Passage]) -> list[Passage]:
    """The passages without repetitions, in order."""
    return list({passage.id: passage for passage in passages}.values())
