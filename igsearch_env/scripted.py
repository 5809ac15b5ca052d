"""Scripted policies without a model, for tests and as reference results. They map a trajectory to an action.

search-question   searches the question, answers with the best-supported capitalised span of the passages
oracle-titles     searches the known supporting titles, then answers correctly if a passage contains a golden answer:
                  an upper bound for policies that use this retriever
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.protocols import Answer, Search
from igsearch_env.questions import UNKNOWN, Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from retrievers.base import Passage

_SPAN = re.compile(r"\b(?:[A-Z][\w'’.-]*|\d{4})(?:\s+(?:of|the|de|van|von|and)\s+[A-Z][\w'’-]*|\s+[A-Z][\w'’-]*)*")
_YEAR = re.compile(r"\b1[0-9]{3}\b|\b20[0-9]{2}\b")
_YES_NO = re.compile(r"(?:is|are|was|were|do|does|did|has|have|had|can|could)\b", re.IGNORECASE)
_WHEN = re.compile(r"\b(?:when|what year|which year)\b", re.IGNORECASE)


class ScriptedPolicy(Protocol):
    """Anything that chooses the next action of a running episode."""

    def act(self, trajectory: Trajectory, *, may_search: bool) -> Search | Answer:
        """The next action. `may_search` is False when no search is left, so that only an answer counts."""
        ...


def check_policy_name(name: str) -> None:
    """Raise `ConfigurationError` for a misspelt name of a scripted or the bundled policy, before the Hub is asked for
    a model of that name.
    """
    known = [*SCRIPTED, "bundled"]
    near = difflib.get_close_matches(name, known, n=1)
    if near and name not in known and "/" not in name and not Path(name).exists():
        raise ConfigurationError(f"policy={name!r}: no such policy; did you mean {near[0]!r}?")


def best_supported_span(question: str, passages: Sequence[Passage]) -> str:
    """The capitalised span (a year, if the question asks when) with most support, none of it from the question.

    Support: the sum of 1 / rank over the passages that contain it. "yes" to a question that begins with a verb;
    `UNKNOWN` if there is no span.
    """
    if _YES_NO.match(question):
        return "yes"
    pattern = _YEAR if _WHEN.search(question) else _SPAN
    asked = set(normalize_answer(question).split())
    support: dict[str, float] = defaultdict(float)
    for rank, passage in enumerate(passages, start=1):
        for span in {match.group().strip(".") for match in pattern.finditer(f"{passage.title}. {passage.text}")}:
            if not set(normalize_answer(span).split()) <= asked:
                support[span] += 1 / rank
    return max(support, key=lambda span: (support[span], len(span), span), default=UNKNOWN)


def _seen(trajectory: Trajectory) -> list[Passage]:
    return [passage for turn in trajectory.turns for passage in turn.passages]


class SearchQuestion:
    """Searches the question once and answers with the best-supported span."""

    def act(self, trajectory: Trajectory, *, may_search: bool) -> Search | Answer:
        if not trajectory.turns:
            return Search(trajectory.question.text)
        return Answer(best_supported_span(trajectory.question.text, _seen(trajectory)))


class OracleTitles:
    """Searches each supporting title (the question if none is known); reads the results perfectly."""

    def act(self, trajectory: Trajectory, *, may_search: bool) -> Search | Answer:
        question = trajectory.question
        queries = list(question.supporting_titles) or [question.text]
        passages = _seen(trajectory)
        found = self._answer_in_sight(question, passages)
        if len(trajectory.turns) < len(queries) and may_search and found is None:
            return Search(queries[len(trajectory.turns)])
        if question.golden_answers == (UNKNOWN,):  # no passage holds the answer
            return Answer(UNKNOWN)
        return Answer(found or best_supported_span(question.text, passages))

    @staticmethod
    def _answer_in_sight(question: Question, passages: Sequence[Passage]) -> str | None:
        text = " ".join(f" {normalize_answer(f'{p.title} {p.text}')} " for p in passages)
        return next((gold for gold in question.golden_answers if f" {normalize_answer(gold)} " in text), None)


SCRIPTED: dict[str, Callable[[], ScriptedPolicy]] = {"search-question": SearchQuestion, "oracle-titles": OracleTitles}


def make_scripted_policy(name: str) -> ScriptedPolicy:
    """A scripted policy by name."""
    check_choice("policy", name, SCRIPTED)
    return SCRIPTED[name]()


def play_scripted(policy: ScriptedPolicy, stepper: EpisodeStepper, questions: Sequence[Question]) -> list[Trajectory]:
    """One episode per question, all stepped together."""
    episodes = [stepper.begin(question) for question in questions]
    running = episodes
    while running:
        actions = [policy.act(episode.trajectory, may_search=episode.searches_left > 0) for episode in running]
        stepper.step(running, [stepper.rules.protocol.write(action) for action in actions])
        running = [episode for episode in running if not episode.trajectory.done]
    return [episode.trajectory for episode in episodes]
