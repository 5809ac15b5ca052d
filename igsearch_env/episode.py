"""The rules of one episode, shared by the single and the vector environment. Uses neither a retriever nor a scorer.

`act` parses the policy's text, or takes an action as it is; if it is a search, the caller retrieves and passes the
results to `observe`. Every action but an answer uses up one of the allowed searches, an invalid one too (as in
Search-R1). When the last one is used, the policy is asked to answer and has one more turn. With several attempts, each
but the last ends with a reflection prompt, and the next one starts with all earlier turns in the context (MR-Search,
arXiv 2603.11327).
"""

from __future__ import annotations

from collections.abc import Sequence

from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import MAX_ACTION_CHARS, Action, Answer, Invalid, Protocol, Search
from igsearch_env.questions import Question
from igsearch_env.rewards import outcome_reward
from igsearch_env.rules import EpisodeRules
from igsearch_env.trajectory import ANSWERED, NO_ANSWER, RETRIEVAL_FAILED, Attempt, Trajectory, Turn
from retrievers.base import Passage

AgentAction = str | Search | Answer
"""What an environment accepts as an action: text that is parsed, or an action itself."""


def check_action(action: object, name: str = "action") -> None:
    """Raise `ConfigurationError` unless `action` is an `AgentAction`."""
    content = action.query if isinstance(action, Search) else action.text if isinstance(action, Answer) else action
    if not isinstance(content, str):
        inside = f", with {content!r} in it," if content is not action else ""
        raise ConfigurationError(
            f"{name} {action!r}{inside} is a {type(content).__name__}: it must be a string, or Search(query) or "
            "Answer(text) of a string; pass the text of the policy, or one of these"
        )


def _turn(action: AgentAction, protocol: Protocol) -> Turn:
    check_action(action)
    if isinstance(action, str):
        parsed = protocol.parse(action)
        return Turn(action, parsed, observation_role=protocol.role_after(parsed), message=protocol.message(action))
    text = protocol.write(action)
    taken: Action = action
    if len(text) > MAX_ACTION_CHARS:  # invalid, as text of this length is
        taken = protocol.parse(text)
    return Turn(text, taken, observation_role=protocol.role_after(taken), message=protocol.message(action))


class Episode:
    """One question being answered; `trajectory` is its record."""

    __slots__ = ("pending", "rules", "trajectory", "unfinished")

    def __init__(self, question: Question, rules: EpisodeRules) -> None:
        self.rules = rules
        self.trajectory = Trajectory(
            question, rules.protocol.question_prompt(question.text), system=rules.protocol.system
        )
        self.pending: int | None = None  # turn whose information gain waits for its refine block
        self.unfinished = False  # a step began and has raised: its observation and reward are missing

    def act(self, action: AgentAction) -> str | None:
        """Record a turn of the policy. Returns the query if passages must be retrieved, else None.

        Text is parsed. `Search` and `Answer` are used as they are; the text of the turn is then only how the protocol
        writes them. Raises `ConfigurationError` for anything else, before anything is recorded.
        """
        trajectory = self.trajectory
        turn = _turn(action, self.rules.protocol)
        taken = turn.action
        trajectory.turns.append(turn)
        if isinstance(taken, Answer):
            written = [t.text for t in trajectory.turns[-self._turns :]]
            refined = [block for text in written for block in self.rules.protocol.finished_refinements(text)]
            turn.reward = outcome_reward(
                self.rules.outcome_reward, taken.text, trajectory.question.golden_answers, refined
            )
            self._end_attempt(taken.text, ANSWERED)
            return None
        if self._turns > self.rules.max_searches:
            self._end_attempt(None, NO_ANSWER)
            return None
        if isinstance(taken, Search):
            return taken.query
        turn.observation = self.rules.protocol.correction(taken) + self._last_call()
        return None

    def observe(self, passages: Sequence[Passage]) -> None:
        """Record the results of the pending search."""
        turn = self.trajectory.turns[-1]
        turn.passages = tuple(passages)
        turn.observation = self.rules.protocol.observation(passages) + self._last_call()

    def fail(self) -> None:
        """End the episode because the retriever failed in the pending search; it must not be trained on."""
        self.trajectory.stop_reason = RETRIEVAL_FAILED

    @property
    def _turns(self) -> int:
        """Number of turns of the running attempt."""
        attempts = self.trajectory.attempts
        return len(self.trajectory.turns) - (attempts[-1].end if attempts else 0)

    @property
    def searches_left(self) -> int:
        """Actions before the policy must answer, in the running attempt; negative if it did not answer then."""
        return self.rules.max_searches - self._turns

    def _end_attempt(self, prediction: str | None, stop_reason: str) -> None:
        trajectory = self.trajectory
        turn = trajectory.turns[-1]
        trajectory.attempts.append(Attempt(len(trajectory.turns), prediction, turn.reward))
        trajectory.prediction, trajectory.outcome = prediction, turn.reward
        if len(trajectory.attempts) < self.rules.attempts:
            turn.observation = self.rules.protocol.reflection(trajectory.question.text)
            turn.observation_role = "user"
        else:
            trajectory.stop_reason = stop_reason

    def _last_call(self) -> str:
        return self.rules.protocol.last_call() if self.searches_left == 0 else ""

    def take_measurable(self, worth: bool) -> int | None:
        """The turn whose information gain is complete now, if any.

        `worth`: whether the search of this step returned evidence. In the autorefine family a gain is complete one
        turn later, when the policy has (or has not) refined the passages.
        """
        current = len(self.trajectory.turns) - 1 if worth else None
        if not self.rules.protocol.refines:
            return current
        ready, self.pending = self.pending, current
        return ready

    @property
    def invalid_reason(self) -> str | None:
        """Why the last action was invalid, or None."""
        action = self.trajectory.turns[-1].action
        return action.reason if isinstance(action, Invalid) else None
