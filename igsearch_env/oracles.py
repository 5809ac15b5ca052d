"""Progress of an episode towards the evidence that answers its question, from 0 to 1, by what the data know of it.

    support      share of the supporting passages found; of the supporting pages, where only their titles are known
    distance     1 - d / d_0: d mentions of page titles lead from the pages found to a page that answers, at first d_0
    similarity   mean over the supporting passages of the highest TF-IDF cosine with a passage found (StepSearch)

All are functions of the question and of the passages found so far; none falls as more are found. Of a question that
nothing in the corpus supports (an empty list of supporting titles, as of unanswerable ones), it is always 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from igsearch_env.corpus_pages import CorpusPages, pages_of
from igsearch_env.demonstrator import occurs
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.tfidf import best_cosines
from retrievers.base import Passage, Retriever

Progress = Callable[[Question, Sequence[Passage]], float]

ORACLES = ("support", "distance", "similarity")


def progress_by(source: str, retriever: Retriever | None) -> Progress:
    """One of `ORACLES`. The retriever is that of the episodes; `support` needs none.

    Raises `ConfigurationError` if its corpus can't be read as a whole. So does a call for a question without
    supporting titles, or whose supporting pages are not in the corpus.
    """
    if source == "support":
        return support
    pages = pages_of(retriever, source)
    return partial(distance if source == "distance" else similarity, pages)


def support(question: Question, found: Sequence[Passage]) -> float:
    """Share of the supporting passages among those found, or of the pages (by title) if no ids are known."""
    check_supporting(question, "support")
    if question.supporting_ids:
        wanted, there = set(question.supporting_ids), {passage.id for passage in found}
    else:
        wanted = set(map(normalize_answer, question.supporting_titles))
        there = {normalize_answer(passage.title) for passage in found}
    return len(wanted & there) / len(wanted) if wanted else 0.0


def similarity(pages: CorpusPages, question: Question, found: Sequence[Passage]) -> float:
    """Mean over the supporting passages of the highest TF-IDF cosine of their text with that of a passage found."""
    supporting = _supporting(pages, question, "similarity")
    if not found or not supporting:
        return 0.0
    wanted = tuple(normalize_answer(passage.text) for passage in supporting)
    best = best_cosines([normalize_answer(passage.text) for passage in found], wanted)
    return sum(best) / len(best)


def distance(pages: CorpusPages, question: Question, found: Sequence[Passage]) -> float:
    """Share of the way to a page that answers: one step to a page that the question names, and one per mention.

    A page that answers is a supporting page with a golden answer in a supporting passage, else the last supporting
    page. If the question names no page that leads there, the way is as long as the supporting pages are many.
    """
    supporting = _supporting(pages, question, "distance")
    if not found or not supporting:
        return 0.0
    answering = [p for p in supporting if any(occurs(answer, p.text) for answer in question.golden_answers)]
    hops = pages.hops(frozenset(normalize_answer(p.title) for p in answering or supporting[-1:]))
    named = [hops[page] for page in pages.named_in(question.text) if page in hops]
    whole = 1 + min(named) if named else len({p.title for p in supporting})
    left = min((hops[title] for p in found if (title := normalize_answer(p.title)) in hops), default=whole)
    return 1 - min(left, whole) / whole


def _supporting(pages: CorpusPages, question: Question, source: str) -> list[Passage]:
    check_supporting(question, source)
    passages = pages.supporting(question)
    if question.supporting_titles and not passages:
        raise ConfigurationError(
            f"information_gain.source={source!r}: the corpus has none of the supporting pages "
            f"{question.supporting_titles[:3]} of question {question.id!r} of data set {question.dataset!r}; use the "
            "corpus that belongs to the questions, leave such questions out, or use another source"
        )
    return passages


def check_supporting(question: Question, source: str) -> None:
    """Raise `ConfigurationError` unless the data name the supporting pages of a question, or say that it has none."""
    if question.metadata.get("supporting_titles") is None:
        raise ConfigurationError(
            f"information_gain.source={source!r}: question {question.id!r} of data set {question.dataset!r} has no "
            "supporting_titles; use questions that name them (the bundled world, hotpotqa, 2wikimultihopqa, musique), "
            "or another source"
        )
