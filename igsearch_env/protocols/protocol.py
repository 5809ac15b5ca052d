"""`Protocol`: translates the policy's text into actions, and results into the text of observations.

A protocol defines everything that depends on the format of an episode: the prompt, the strings that end a turn,
parsing, the position of the query in a turn, the text of evidence, the prefix of an answer, and the chat role of an
observation. Code outside this package does not depend on tags or templates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols.actions import Action, ActionSpan, Answer, Invalid, Role, Search
from igsearch_env.protocols.messages import AssistantMessage
from igsearch_env.protocols.prompts import BARE, REFLECTION
from igsearch_env.protocols.skeleton import Skeleton
from retrievers.base import Passage


@dataclass(frozen=True)
class Protocol(ABC):
    """A format of episodes with a prompt template.

    Args:
        prompt: a template with `{question}` in it. Default: the protocol's own.
        cut: shortens the passages of a search, of real and of random evidence alike. Default: no limit.

        system: instructions for the system role of a chat template, the same for every question. A policy without a
            chat template reads them before the prompt. Default: none.

    Raises `ConfigurationError` for a template without `{question}`, or a system part with it.
    """

    name: ClassVar[str]
    """Value of `env.protocol`."""
    own_prompt: ClassVar[str]
    """The default template."""
    reflection_prompt: ClassVar[str] = REFLECTION
    """The template shown between two attempts at a question."""
    stop_strings: ClassVar[tuple[str, ...]]
    """A turn ends with the first of these that the policy writes (or with an end of sequence)."""
    markers: ClassVar[tuple[str, ...]] = ()
    """Strings that a tokenizer must reproduce exactly; otherwise no policy can follow the protocol."""
    evidence_lead: ClassVar[str] = "\n\n"
    """What stands before the evidence in the observation of a search."""
    answer_space: ClassVar[str] = " "
    """White space between `answer_prefix` and the answer."""
    refines: ClassVar[bool] = False
    """Whether the policy summarises the passages of a search in its next turn. Then the evidence of a search is the
    pair (passages, summary), and its information gain is known one turn later."""
    tools: ClassVar[tuple[dict[str, Any], ...]] = ()
    """Tools that the policy calls in the format of its chat template, in JSON Schema."""
    observation_role: ClassVar[Role] = "assistant"
    """How the passages of a search are put into a chat template."""

    prompt: str = ""
    cut: Callable[[str], str] | None = field(default=None, compare=False, repr=False)
    system: str = ""

    def __post_init__(self) -> None:
        if "{question}" not in self.template:
            raise ConfigurationError(
                f"prompt={self.prompt!r}: a template must contain {{question}}; add it where the question belongs"
            )
        if "{question}" in self.system:
            raise ConfigurationError(
                f"system={self.system[:80]!r}: the system part is the same for every question; move {{question}} to "
                "the prompt template"
            )

    # ---------------------------------------------------------------- what the policy writes

    @abstractmethod
    def description(self) -> str:
        """A short description of a turn in Markdown, for model cards."""

    @abstractmethod
    def parse(self, text: str) -> Action:
        """The action in one turn of policy text. Returns `Invalid` for anything else; never raises on any text."""

    @abstractmethod
    def action_span(self, text: str) -> ActionSpan | None:
        """Position of the search or answer that `parse` returns; None if there is none."""

    @property
    @abstractmethod
    def answer_prefix(self) -> str:
        """The policy's text directly before an answer: information gain scores the answer after it."""

    @abstractmethod
    def write(self, action: Search | Answer) -> str:
        """The text of a turn that consists of this action alone: what scripted policies write.

        `parse` reads it back as an action of the same kind, whatever the query or answer contains: markup of the
        format inside it may be changed. Where the exact content matters, `Turn.action` has it.
        """

    def message(self, turn: str | Search | Answer) -> AssistantMessage | None:
        """The message that a turn is, for protocols whose turns are messages of a chat; None for those of text."""
        return None

    def refinement(self, text: str) -> str:
        """The policy's summary of the last passages in a turn, with its markup; "" if there is none."""
        return ""

    def refined_text(self, text: str) -> str:
        """The policy's summary in a turn, without markup; "" if there is none."""
        return ""

    def finished_refinements(self, text: str) -> list[str]:
        """The policy's summaries in a turn without markup, unfinished ones left out: what AutoRefine's reward reads."""
        return []

    def write_refinement(self, text: str) -> str:
        """A summary with its markup. Only called for protocols with `refines`."""
        raise NotImplementedError

    # ---------------------------------------------------------------- what the policy reads

    @property
    def template(self) -> str:
        """The prompt template in use, with `{question}` in it."""
        return self.prompt or self.own_prompt

    def question_prompt(self, question: str) -> str:
        """The first observation of an episode."""
        return self.template.replace("{question}", question)

    def reflection(self, question: str) -> str:
        """What the policy reads between two attempts at the question."""
        template = BARE if self.template == BARE else self.reflection_prompt
        return "\n\n" + template.replace("{question}", question)

    def role_after(self, action: Action) -> Role:
        """How the observation after an action is put into a chat template."""
        return self.observation_role

    @abstractmethod
    def evidence(self, passages: Sequence[Passage]) -> str:
        """The passages of a search as the policy reads them, with their markup."""

    @abstractmethod
    def after_evidence(self, observation: str) -> str:
        """The text after the evidence in the observation of a search, which does not depend on the evidence."""

    def skeleton(self, transcript: str, start: int) -> Skeleton:
        """The blocks of a transcript whose prompt ends at character `start`, for `information_gain.context=skeleton`.

        Raises `ConfigurationError` if the format has no such form, which is defined for tags alone.
        """
        raise ConfigurationError(
            f"information_gain.context='skeleton' is defined for tags; protocol={self.name!r} has none: "
            "use context='trajectory'"
        )

    def observation(self, passages: Sequence[Passage]) -> str:
        """What the policy reads after a search."""
        return f"{self.evidence_lead}{self.evidence(passages)}\n\n"

    def correction(self, invalid: Invalid) -> str:
        """What the policy reads after an invalid action."""
        return f"\n\n{invalid.reason}\n\n"

    def last_call(self) -> str:
        """Appended to the observation when no search is left."""
        return "No search is left. Answer now.\n\n"
