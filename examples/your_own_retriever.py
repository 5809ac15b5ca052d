"""A custom search engine in one file: ranks passages whose title occurs in the query first, then by shared words.

    python examples/your_own_retriever.py       compares it with BM25 using scripted policies, and shows an episode

docs/extending.md begins with a smaller one, and explains how to test and how to train with it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from algorithms.common.evaluation.scores import macro_average, score
from igsearch_env import IGSearchEnv
from igsearch_env.scripted import SCRIPTED, make_scripted_policy, play_scripted
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import CorpusError, CorpusRetriever, Passage


class TitleRetriever(CorpusRetriever):
    """Scores a passage by the share of query words that it contains, plus 1 if its title occurs in the query."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        if not passages:
            raise CorpusError("no passages: the corpus is empty; give at least one passage")
        self.passages = passages
        self.holders: dict[str, list[int]] = defaultdict(list)
        self.titled: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, passage in enumerate(passages):
            for word in set(words(f"{passage.title} {passage.text}")):
                self.holders[word].append(number)
            self.titled[tuple(words(passage.title))].append(number)
        self.longest = max(map(len, self.titled))

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        return [self._best(words(query), k) for query in queries]

    def _best(self, query: list[str], k: int) -> list[Passage]:
        scores = np.zeros(len(self))
        for word in query:
            scores[self.holders.get(word, [])] += 1 / len(query)
        spans = ((start, end) for end in range(len(query) + 1) for start in range(max(end - self.longest, 0), end))
        for title in {tuple(query[start:end]) for start, end in spans}:
            scores[self.titled.get(title, [])] += 1.0
        found = np.flatnonzero(scores)  # passages without a word of the query are not returned
        best = found[np.argsort(-scores[found], kind="stable")][:k]  # ties are ordered by position, for every k
        return [self.passages[i].with_score(float(scores[i])) for i in best]


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"\w+", text.lower())


def main() -> None:
    """Compare the engines, then play an episode."""
    questions, own = bundled_world().questions["test"], TitleRetriever(bundled_world().passages)
    for name in SCRIPTED:
        for engine, retriever in (("BM25", bundled_retriever()), ("titles first", own)):
            stepper = EpisodeStepper(questions, retriever, None)
            em = macro_average(score(play_scripted(make_scripted_policy(name), stepper, questions)))
            print(f"{name:<16} {engine:<12} EM {em:.3f}")
    env, policy = IGSearchEnv(questions, own, render_mode="human"), make_scripted_policy("oracle-titles")
    env.reset(seed=2)
    while not env.trajectory.done:
        assert env.episode is not None
        action = policy.act(env.trajectory, may_search=env.episode.searches_left > 0)
        env.step(env.stepper.rules.protocol.write(action))  # prints the new turn


if __name__ == "__main__":
    main()
