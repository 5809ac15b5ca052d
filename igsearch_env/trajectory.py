"""Data types that record an episode; all other files use them.

A trajectory is a question's prompt, with an optional system part before it, and its turns. A turn is what the policy
wrote and the observation after it:

    prompt | text  observation | text  observation | text
             `- turn 0 ------'   `- turn 1 ------'   `- turn 2 (the answer: nothing is read after it)

The environment fills in text; a rollout adds the token ids, exactly as sampled, and their log-probs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from igsearch_env.protocols import Action, Role, Search
from igsearch_env.protocols.messages import AssistantMessage, message_row
from igsearch_env.questions import Question
from retrievers.base import Passage

# Why an episode ended. Only an answer can earn the outcome reward; with several attempts it may be the answer of an
# attempt before the truncated one. "retrieval_failed" is not caused by the policy, so such a trajectory is excluded
# from the loss and from its group's statistics.
ANSWERED = "answered"
NO_ANSWER = "no_answer"  # the turn after the last call contained no answer
RETRIEVAL_FAILED = "retrieval_failed"
CONTEXT_FULL = "context_full"  # set by a rollout if the next turn does not fit into the policy's context
STOP_REASONS = (ANSWERED, NO_ANSWER, RETRIEVAL_FAILED, CONTEXT_FULL)

GainForm = Literal["log_probability", "probability"]


@dataclass(frozen=True, slots=True)
class Gain:
    """Information gain of one search: `value` = `logprob_real` - `logprob_baseline`, in nats, before stabilisation.

    Both are weighted mean token log-probs of the first golden answer (with `golden_answers` "all", the log of the sum
    of their exponentials over all of them, which may exceed 0); `baseline_evidences` are the texts that the second was
    computed with (empty for the baseline "previous").
    """

    value: float
    logprob_real: float
    logprob_baseline: float
    baseline_evidences: tuple[str, ...] = ()

    @property
    def in_probability(self) -> float:
        """The difference of the two scores as probabilities; in [-1, 1] where one answer is scored."""
        return math.exp(self.logprob_real) - math.exp(self.logprob_baseline)

    def in_form(self, form: GainForm) -> float:
        """The difference of log-probs, in nats, or of probabilities."""
        return self.in_probability if form == "probability" else self.value


@dataclass(slots=True)
class Turn:
    """One turn. The token fields are empty unless a rollout recorded them."""

    text: str
    action: Action
    observation: str = ""
    passages: tuple[Passage, ...] = ()
    gain: Gain | None = None  # of searches only; None also if no passage was found
    reward: float = 0.0  # returned by env.step for this turn
    completion_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()  # one per completion id, by the policy that sampled it
    query_span: tuple[int, int] | None = None  # tokens of the query text within completion_ids, [start, end)
    observation_ids: tuple[int, ...] = ()
    search_span: tuple[int, int] | None = None  # as query_span, with the tags around it
    weights_version: int = 0  # training steps whose update the weights that wrote it had seen
    observation_role: Role = "assistant"  # of the observation in a chat template
    message: AssistantMessage | None = field(default=None, compare=False)  # of protocols whose turns are messages

    @property
    def is_search(self) -> bool:
        """Whether the action was a search."""
        return isinstance(self.action, Search)

    @property
    def query(self) -> str | None:
        """The query of a search, None for any other action."""
        return self.action.query if isinstance(self.action, Search) else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished attempt at the question: its turns end before index `end`; `prediction` is None without an answer."""

    end: int
    prediction: str | None
    outcome: float


@dataclass(slots=True)
class Trajectory:
    """One episode: one attempt at the question, or several with a reflection between them (MR-Search)."""

    question: Question
    prompt: str
    turns: list[Turn] = field(default_factory=list)
    prediction: str | None = None  # of the last finished attempt: the answer that counts
    outcome: float = 0.0  # outcome reward of `prediction`, in [0, 1]
    stop_reason: str = ""  # "" while the episode runs, then one of STOP_REASONS
    prompt_ids: tuple[int, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    system: str = ""  # the system part of the prompt

    @property
    def opening(self) -> str:
        """The text before the first turn: the prompt, with the system part before it if there is one."""
        return f"{self.system}\n\n{self.prompt}" if self.system else self.prompt

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return bool(self.stop_reason)

    @property
    def retrieval_failed(self) -> bool:
        """Whether the episode ended by a retrieval failure, so that it must not be trained on."""
        return self.stop_reason == RETRIEVAL_FAILED

    @property
    def searches(self) -> int:
        """Number of searches."""
        return sum(turn.is_search for turn in self.turns)

    @property
    def tokens(self) -> int:
        """Length of the whole episode in tokens, if a rollout recorded them."""
        return len(self.prompt_ids) + sum(len(turn.completion_ids) + len(turn.observation_ids) for turn in self.turns)

    def transcript(self) -> str:
        """The text of the whole episode in reading order."""
        return self.opening + "".join(turn.text + turn.observation for turn in self.turns)

    def messages(self) -> list[dict[str, Any]]:
        """The episode so far as chat messages, each with `role` and `content`.

        First the system part, if there is one, and the prompt as the user's message; then each turn as the assistant's
        message and its observation as the user's, without the white space around it, as a rollout in a chat template
        encodes one. The observation after the last turn is left out if it is empty. With native tool calls, searches
        are calls (`tool_calls`, as chat templates take them), and their results messages of the tool.
        """
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": self.prompt})
        for number, turn in enumerate(self.turns):
            message = AssistantMessage(turn.text) if turn.message is None else turn.message
            messages.append(message_row(message, f"call_{number}"))
            if observation := turn.observation.strip():
                is_result = turn.observation_role == "tool"
                result = {"role": "tool", "tool_call_id": f"call_{number}"} if is_result else {"role": "user"}
                messages.append({**result, "content": observation})
        return messages


@dataclass(slots=True)
class Group:
    """The trajectories of one occurrence of a question, which group-relative estimators compare."""

    question: Question
    trajectories: list[Trajectory]
    failed: int = 0  # trajectories left out because their retrieval failed
