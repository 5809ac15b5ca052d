"""`Demonstrator`: a scripted policy that knows the answer, whose successful episodes are training data.

It shows what a policy needs to begin with: the format, searching, and answers taken from what was read. It is imperfect
on purpose, so that reinforcement learning has something to improve: it searches for the supporting titles in only a
part of the episodes, begins others with a vague query, and otherwise repeats the question.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from igsearch_env.errors import check_range
from igsearch_env.protocols import Answer, Protocol, Search
from igsearch_env.questions import UNKNOWN, Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.trajectory import ANSWERED, Trajectory, Turn
from retrievers.base import Passage
from retrievers.random_streams import random_stream

YES_NO = ("yes", "no")
SHORT = 2  # characters of an answer that many passages hold by chance: "7", "II"
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

    It answers with the golden answer that it has read, else with "unknown", and `succeeded` rejects the episode.

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
        return Answer(UNKNOWN if answer is None else answer)

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
        titles = question.supporting_titles if by_title else ()
        if titles:
            done = {turn.query for turn in trajectory.turns} | {passage.title for passage in passages_read(trajectory)}
            left = [title for title in titles if title not in done]
            return _nearest(left, trajectory) if left else None
        asked = trajectory.searches > (vague and len(words) > 2)  # the vague query is not the question
        return None if answered or asked else question.text


def succeeded(trajectory: Trajectory) -> bool:
    """Whether an episode ended with a golden answer that it had read, so that it teaches no guess.

    "unknown" needs no reading, where that is the golden answer: no passage answers the question.
    """
    if trajectory.stop_reason != ANSWERED or trajectory.outcome != 1.0:
        return False
    return trajectory.question.golden_answers == (UNKNOWN,) or answer_read(trajectory) is not None


def answer_read(trajectory: Trajectory) -> str | None:
    """The golden answer that `answer_in` finds in the passages that an episode has read."""
    return answer_in(trajectory.question, passages_read(trajectory))


def answer_in(question: Question, read: Sequence[Passage]) -> str | None:
    """The first golden answer that occurs in some passages, as whole words.

    Yes and no can't be read: they count as read once the pages of all supporting titles are. Many passages hold an
    answer of one or two characters by chance: where supporting titles are known, it must be in one of their pages, and
    such an alias of a longer answer ("AT" of Austria) is not looked for.
    """
    titles = {normalize_answer(title) for title in question.supporting_titles}
    first = question.golden_answers[0]
    alone = len(normalize_answer(first)) <= SHORT
    if normalize_answer(first) in YES_NO:
        return first if titles and titles <= {normalize_answer(passage.title) for passage in read} else None
    for answer in question.golden_answers:
        short = len(normalize_answer(answer)) <= SHORT
        if short and not alone:
            continue
        pages = [p for p in read if normalize_answer(p.title) in titles] if short and titles else read
        if occurs(answer, _text(pages)):
            return answer
    return None


def occurs(phrase: str, text: str) -> bool:
    """Whether the words of a phrase stand in a text, one after another."""
    return f" {normalize_answer(phrase)} " in f" {normalize_answer(text)} "


def passages_read(trajectory: Trajectory, end: int | None = None) -> list[Passage]:
    """The passages found before turn `end` (default: in all turns), as far as the observations show them.

    Observations may be cut. What a protocol writes around passages ("Doc 1", a last call) is left out, since it could
    hold an answer by chance.
    """
    return [passage for turn in trajectory.turns[:end] for passage in passages_shown(turn)]


def passages_shown(turn: Turn) -> list[Passage]:
    """The passages that a turn found, as far as its observation shows them."""
    shown: list[Passage] = []
    at = 0
    for passage in turn.passages:
        found = turn.observation.find(passage.title, at)
        if found >= 0:
            at = found + len(passage.title)
            shown.append(replace(passage, text=_beginning(passage.text, turn.observation[at:])))
    return shown


def _beginning(text: str, observation: str) -> str:
    """The longest beginning of a text that occurs in an observation."""
    if text in observation:
        return text
    length = bisect_left(range(len(text)), True, key=lambda end: text[: end + 1] not in observation)
    return text[:length]


def _text(passages: Sequence[Passage]) -> str:
    return "\n".join(f"{passage.title}\n{passage.text}" for passage in passages)


def _nearest(titles: Sequence[str], trajectory: Trajectory) -> str:
    """The first of `titles` that the policy has met, in the question or in a passage; else the first."""
    met = f"{trajectory.question.text}\n{_text(passages_read(trajectory))}"
    # Without what tells pages of one name apart: "Green (Steve Hillage album)".
    named = (title for title in titles if occurs(re.sub(r"\s*\([^)]*\)$", "", title), met))
    return next(named, titles[0])


def _summary(trajectory: Trajectory) -> str:
    """The first sentence read last that holds a golden answer or names a supporting page; else the first sentence."""
    question = trajectory.question
    read = [sentence for passage in passages_shown(trajectory.turns[-1]) for sentence in _SENTENCE.split(passage.text)]
    for name in (*question.golden_answers, *question.supporting_titles):
        for sentence in read:
            if occurs(name, sentence):
                return sentence
    return next(filter(str.strip, read), UNKNOWN)
