"""The pages of a corpus: which passages each has, and which pages mention which others by their titles.

A page is all passages of one title, normalised as answers are. One page mentions another if the words of the other's
title (or those before the brackets at its end, if these are several) stand in one of its passages, one after another,
the first of them not in lower case.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from weakref import WeakKeyDictionary

from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from retrievers.base import Passage, Retriever

MAX_PASSAGES = 1_000_000  # all of them are read: minutes
KEPT = 32  # results of `hops`, each of up to all pages
_BRACKETS = re.compile(r"\s*\([^)]*\)$")


class CorpusPages:
    """Pages of a corpus that can be read as a whole."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._numbers: dict[str, list[int]] = defaultdict(list)
        self._ids: dict[str, int] = {}
        self._hops: dict[frozenset[str], dict[str, int]] = {}
        for number, passage in enumerate(passages):
            self._numbers[normalize_answer(passage.title)].append(number)
            self._ids[passage.id] = number

    def supporting(self, question: Question) -> list[Passage]:
        """The supporting passages of a question that the corpus has: by their ids, else all of the supporting pages."""
        if question.supporting_ids:
            numbers = [self._ids[id] for id in question.supporting_ids if id in self._ids]
        else:
            titles = dict.fromkeys(map(normalize_answer, question.supporting_titles))
            numbers = [number for title in titles for number in self._numbers.get(title, ())]
        return [self._passages[number] for number in numbers]

    def named_in(self, text: str, *, names_only: bool = False) -> set[str]:
        """The titles, normalised, of the pages that a text mentions.

        `names_only`: leave out mentions that begin with a lower-case letter, which are common words in running text.
        """
        words = [word for token in text.split() for word in _words_of(token)]
        found = set[str]()
        for start, (word, is_lower) in enumerate(words):
            if names_only and is_lower:
                continue
            for length in self._lengths.get(word, ()):
                name = " ".join([other for other, _ in words[start : start + length]])
                found.update(self._titles.get(name, ()))
        return found

    def hops(self, targets: frozenset[str]) -> dict[str, int]:
        """How many mentions lead from each page to the nearest of `targets` (titles, normalised).

        Pages from which none is reached are left out. The last results are kept.
        """
        if targets not in self._hops:
            reached, latest, hops = dict.fromkeys(targets, 0), set(targets), 0
            while latest:
                hops += 1
                latest = {page for target in latest for page in self._mentioned_by.get(target, ())} - reached.keys()
                reached |= dict.fromkeys(latest, hops)
            if len(self._hops) == KEPT:
                del self._hops[next(iter(self._hops))]
            self._hops[targets] = reached
        return self._hops[targets]

    @cached_property
    def _titles(self) -> dict[str, list[str]]:
        """Titles by the name that a mention has: the title, and without what stands in brackets."""
        titles: dict[str, list[str]] = defaultdict(list)
        for numbers in self._numbers.values():
            title = self._passages[numbers[0]].title
            whole, name = normalize_answer(title), normalize_answer(_BRACKETS.sub("", title))
            # A single word without its brackets, such as that of "Red (album)", is no name that tells pages apart.
            for known in {whole, name if " " in name else whole} - {""}:
                titles[known].append(whole)
        return titles

    @cached_property
    def _lengths(self) -> dict[str, set[int]]:
        """Numbers of words of the names that begin with a word."""
        lengths: dict[str, set[int]] = defaultdict(set)
        for name in self._titles:
            words = name.split()
            lengths[words[0]].add(len(words))
        return lengths

    @cached_property
    def _mentioned_by(self) -> dict[str, list[str]]:
        """For each page, the pages that mention it."""
        mentioned: dict[str, list[str]] = defaultdict(list)
        for title, numbers in self._numbers.items():
            for other in set.union(
                *(self.named_in(self._passages[number].text, names_only=True) for number in numbers)
            ):
                mentioned[other].append(title)
        return mentioned


@lru_cache(maxsize=1_000_000)
def _words_of(token: str) -> tuple[tuple[str, bool], ...]:
    """The words of a text between two spaces, normalised, each with whether the first letter is a lower-case one."""
    is_lower = token.lstrip("\"'([{“‘«").strip()[:1].islower()
    return tuple((word, is_lower) for word in normalize_answer(token).split())


_pages: WeakKeyDictionary[Retriever, CorpusPages] = WeakKeyDictionary()


def pages_of(retriever: Retriever | None, source: str) -> CorpusPages:
    """The pages of a retriever's corpus, made once. `source`: named in errors.

    Raises `ConfigurationError` if the passages can't be listed, or are too many.
    """
    if retriever is None:
        raise ConfigurationError(f"information_gain.source={source!r}: reads the corpus; pass the retriever")
    if retriever not in _pages:
        passages = retriever.all_passages()
        if passages is None or len(passages) > MAX_PASSAGES:
            problem = (
                f"a {type(retriever).__name__} can't list them; open a file or a local index"
                if passages is None
                else f"this one has {len(passages):,}, more than {MAX_PASSAGES:,}; use a smaller corpus"
            )
            raise ConfigurationError(
                f"information_gain.source={source!r}: reads all passages of the corpus, and {problem}, or use 'support'"
            )
        _pages[retriever] = CorpusPages(passages)
    return _pages[retriever]
