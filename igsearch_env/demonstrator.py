"""`Demonstrator`: a scripted policy that knows the answer, whose successful episodes are training data.

It shows what a policy needs to begin with: the format, searching, and answers taken from what was read. It is imperfect
on purpose, so that reinforcement learning has something to improve: it searches for the supporting titles in only a
part of the episodes, begins others with a vague query, and otherwise repeats the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from igsearch_env.errors import check_range
from igsearch_env.protocols import Answer, Protocol, Search
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.scripted import best_supported_span
from igsearch_env.trajectory import Trajectory
from retrievers.random_streams import random_stream

YES_NO = ("yes", "no")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
# Words of a question that are no query.
_FILLER = frozenset(
    "a an the of in on at to for from by with and or is are was were be been do does did has have had "  # noqa: SIM905
    "who whom whose what which when where why how that this these those it its as".split()
)


@dataclass(frozen=True)
class Demonstrator:
    """Plays one of three plans, drawn for each question.

    titles: searches the supporting titles, one after another; the question where none is known
    vague: first a query of two words of the question, then as one of the others
    question: searches the question

    It answers with the golden answer that it has read, else with a guess, and `succeeded` rejects the episode.

    Args:
        titles: share of the plan "titles".
        vague: share of episodes that begin with a vague query.
        seed: determines, with the question, its plan.
    """

    titles: float = 0.6
    vague: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("titles", self.titles, 0, 1)
        check_range("vague", self.vague, 0, 1)

    def act(self, trajectory: Trajectory, *, may_search: bool) -> Search | Answer:
        """The next action; `ScriptedPolicy.act`."""
        answer = answer_read(trajectory)
        query = self._query(trajectory, answer is not None) if may_search else None
        if query is not None:
            return Search(query)
        passages = [passage for turn in trajectory.turns for passage in turn.passages]
        return Answer(answer or best_supported_span(trajectory.question.text, passages))

    def write(self, protocol: Protocol, trajectory: Trajectory, *, may_search: bool) -> str:
        """The text of the next turn, with a summary of the last passages where the protocol asks for one."""
        text = protocol.write(self.act(trajectory, may_search=may_search))
        last = trajectory.turns[-1] if trajectory.turns else None
        if last is None or not last.is_search or not protocol.refines:
            return text
        return f"{protocol.write_refinement(_summary(trajectory))}\n{text}"

    def _query(self, trajectory: Trajectory, answered: bool) -> str | None:
        """The next query of an episode's plan, None at its end; `answered`: whether an answer has been read."""
        question = trajectory.question
        rng = random_stream("plan of a demonstration", self.seed, question.dataset, question.id)
        by_title, vague = rng.random() < self.titles, rng.random() < self.vague
        words = [word for word in re.findall(r"[\w'’-]+", question.text) if word.lower() not in _FILLER]
        if vague and not trajectory.turns and len(words) > 2:
            return " ".join(words[place] for place in sorted(rng.permutation(len(words))[:2].tolist()))
        done = {turn.query for turn in trajectory.turns}
        titles = _titles(question) if by_title else ()
        if titles:
            done |= {passage.title for turn in trajectory.turns for passage in turn.passages}
            left = [title for title in titles if title not in done]
            return _nearest(left, trajectory) if left else None
        return None if answered or question.text in done else question.text


def succeeded(trajectory: Trajectory) -> bool:
    """Whether an episode answered with a golden answer that it had read, so that it teaches no guess."""
    return trajectory.outcome == 1.0 and answer_read(trajectory) is not None


def answer_read(trajectory: Trajectory) -> str | None:
    """The first golden answer that occurs in what the policy has read, as whole words.

    Yes and no can't be read: they count as read once the pages of all supporting titles are.
    """
    question = trajectory.question
    text = _read(trajectory)
    if normalize_answer(question.golden_answers[0]) in YES_NO:
        titles = _titles(question)
        return question.golden_answers[0] if titles and all(occurs(title, text) for title in titles) else None
    return next((answer for answer in question.golden_answers if occurs(answer, text)), None)


def occurs(phrase: str, text: str) -> bool:
    """Whether the words of a phrase stand in a text, one after another."""
    return f" {normalize_answer(phrase)} " in f" {normalize_answer(text)} "


def _read(trajectory: Trajectory) -> str:
    return "\n".join(turn.observation for turn in trajectory.turns if turn.is_search)


def _titles(question: Question) -> tuple[str, ...]:
    return tuple(dict.fromkeys(question.metadata.get("supporting_titles") or ()))


def _nearest(titles: Sequence[str], trajectory: Trajectory) -> str:
    """The first of `titles` that the policy has met, in the question or in a passage; else the first."""
    met = f"{trajectory.question.text}\n{_read(trajectory)}"
    # Without what tells pages of one name apart: "Green (Steve Hillage album)".
    named = (title for title in titles if occurs(re.sub(r"\s*\([^)]*\)$", "", title), met))
    return next(named, titles[0])


def _summary(trajectory: Trajectory) -> str:
    """The first sentence read last that holds a golden answer or names a supporting page; else the first sentence."""
    last, question = trajectory.turns[-1], trajectory.question
    sentences = [sentence for passage in last.passages for sentence in _SENTENCE.split(passage.text)]
    read = [sentence for sentence in sentences if sentence in last.observation]  # passages may be cut
    for name in (*question.golden_answers, *_titles(question)):
        for sentence in read:
            if occurs(name, sentence):
                return sentence
    return read[0] if read else "unknown"
