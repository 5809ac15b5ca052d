"""The only file that knows the tags: prompts, the reading of actions, the writing of observations.

Two tag families. A turn is everything that the policy writes up to the end of its action:

    search_r1    <think> <search> -> <information> ... <answer>
    autorefine   <think> <search> -> <documents> <refine> ... <answer>

Only text that the policy wrote is ever parsed, so nothing in a passage can end a turn or answer.
Sources: Search-R1 (arXiv 2503.09516), AutoRefine (arXiv 2505.11277); the wording is our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.protocols.actions import Action, Answer, Invalid, Search
from retrievers.base import Passage

FAMILIES = ("search_r1", "autorefine")
MAX_ACTION_CHARS = 16_384

_EVIDENCE_TAG = {"search_r1": "information", "autorefine": "documents"}
_ANY_TAG = re.compile(r"<(/?(?:think|search|information|documents|refine|answer)>)")

PROMPTS = {
    "search_r1": (
        "Find the answer to the question below. Think first, inside <think> and </think>, every time you have "
        "learnt something new. Whenever you miss a fact, look it up: write <search> your query </search>, and the "
        "best passages will be shown to you between <information> and </information>. You may search several times. "
        "When you know enough, give the final answer, as short as possible, inside <answer> and </answer>, for "
        "example <answer> Lisbon </answer>.\nQuestion: {question}\n"
    ),
    "autorefine": (
        "Find the answer to the question below. Think first, inside <think> and </think>. Whenever you miss a fact, "
        "look it up: write <search> your query </search>, and the best passages will be shown to you between "
        "<documents> and </documents>. After each search, write down what matters in them inside <refine> and "
        "</refine>. You may search several times. When you know enough, give the final answer, as short as possible, "
        "inside <answer> and </answer>, for example <answer> Lisbon </answer>.\nQuestion: {question}\n"
    ),
    # Nothing but the question: for policies that know the protocol, such as the bundled one.
    "bare": "{question}\n",
}
# What is said between two attempts at a question (MR-Search, arXiv 2603.11327), by the name of the prompt.
_REFLECTION = (
    "Look back at your answer. What is uncertain in it, and what has not been looked up yet? Search for that in the "
    "same way as before, then give your best answer, inside <answer> and </answer>, for example "
    "<answer> Lisbon </answer>.\nQuestion: {question}\n"
)
REFLECTIONS = {"search_r1": _REFLECTION, "autorefine": _REFLECTION, "bare": PROMPTS["bare"]}


def parse(text: str, family: str = "search_r1") -> Action:
    """Read the action out of one turn of policy text. Never raises on any text.

    The first <search>...</search> or <answer>...</answer> pair counts, case-sensitive, across lines;
    its content is stripped (Search-R1 `generation.py`). Both families read alike.
    """
    check_choice("family", family, FAMILIES)
    if len(text) > MAX_ACTION_CHARS:
        return Invalid(
            f"The action has {len(text)} characters, more than the {MAX_ACTION_CHARS} allowed. Write a shorter one."
        )
    span = action_span(text)
    if span is None:
        return Invalid(
            "The action has neither <search> query </search> nor <answer> answer </answer>. Write one of the two."
        )
    kind, start, end = span
    content = text[start:end].strip()
    return Search(content) if kind == "search" else Answer(content)


def action_span(text: str) -> tuple[str, int, int] | None:
    """Kind ("search" or "answer") and character span of the content of the action; None without one.

    Linear in the text: a tag whose end was not found once is not looked for again.
    """
    dead: set[str] = set()
    position = 0
    while True:
        starts = [(text.find(f"<{kind}>", position), kind) for kind in ("search", "answer") if kind not in dead]
        starts = [(at, kind) for at, kind in starts if at >= 0]
        if not starts:
            return None
        at, kind = min(starts)
        start = at + len(kind) + 2
        end = text.find(f"</{kind}>", start)
        if end >= 0:
            return kind, start, end
        dead.add(kind)
        position = start


def truncate(text: str) -> str:
    """Cut a turn after its action as Search-R1 does: at the first </search>, else at the first </answer>."""
    for tag in ("</search>", "</answer>"):
        at = text.find(tag)
        if at >= 0:
            return text[: at + len(tag)]
    return text


STOP_TAGS = ("</search>", "</answer>")


def refine_span(text: str) -> tuple[int, int] | None:
    """Character span of the first <refine> block of a turn, tags included; an unclosed one ends at the action."""
    start = text.find("<refine>")
    if start < 0:
        return None
    end = text.find("</refine>", start)
    if end >= 0:
        return start, end + len("</refine>")
    stops = [at for at in (text.find("<search>", start), text.find("<answer>", start)) if at >= 0]
    return start, min(stops, default=len(text))


def refine_text(text: str) -> str:
    """What the first <refine> block of a turn says, without tags; "" if there is none."""
    span = refine_span(text)
    if span is None:
        return ""
    return text[span[0] : span[1]].removeprefix("<refine>").removesuffix("</refine>").strip()


def format_passages(passages: Sequence[Passage]) -> str:
    """`Doc i(Title: t) text`, one line each, ended by a newline (Search-R1 `_passages2string`)."""
    return "".join(f"Doc {i}(Title: {p.title}) {p.text}\n" for i, p in enumerate(passages, start=1))


def _disarm(text: str) -> str:
    """Break protocol tags that stand inside passages, so that a policy can't mistake them for its own."""
    return _ANY_TAG.sub(r"< \1", text) if "<" in text else text


@dataclass(frozen=True)
class Protocol:
    """A tag family with a prompt template.

    Args:
        family: "search_r1" or "autorefine".
        prompt: a name of `PROMPTS`, or a template with `{question}` in it. Default: the family's own.
        cut: shortens what stands between the tags of a search, of real and of random evidence alike. Default: nothing.
    """

    family: str = "search_r1"
    prompt: str = ""
    cut: Callable[[str], str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("protocol", self.family, FAMILIES)
        if "{question}" not in self.template:
            raise ConfigurationError(
                f"prompt={self.prompt!r}: neither a name ({', '.join(PROMPTS)}) nor a template; "
                "a template must hold {question}"
            )

    @property
    def template(self) -> str:
        """The prompt template in use, with `{question}` in it."""
        return PROMPTS.get(self.prompt or self.family, self.prompt)

    @classmethod
    def from_file(cls, family: str, path: str | Path) -> Protocol:
        """A protocol whose prompt template is read from a text file."""
        return cls(family, Path(path).read_text(encoding="utf-8"))

    def question_prompt(self, question: str) -> str:
        """The first observation of an episode."""
        return self.template.replace("{question}", question)

    def reflection(self, question: str) -> str:
        """What the policy reads between two attempts at the question."""
        template = REFLECTIONS.get(self.prompt or self.family, _REFLECTION)
        return "\n\n" + template.replace("{question}", question)

    def parse(self, text: str) -> Action:
        """`parse` in this family."""
        return parse(text, self.family)

    def evidence(self, passages: Sequence[Passage]) -> str:
        """The block of passages, tags included; only what stands between them may be cut."""
        tag = _EVIDENCE_TAG[self.family]
        text = _disarm(format_passages(passages).strip())
        return f"<{tag}>{text if self.cut is None else self.cut(text)}</{tag}>"

    def observation(self, passages: Sequence[Passage]) -> str:
        """What the policy reads after a search."""
        return f"\n\n{self.evidence(passages)}\n\n"

    def correction(self, invalid: Invalid) -> str:
        """What the policy reads after an invalid action."""
        return f"\n\n{invalid.reason}\n\n"

    def last_call(self) -> str:
        """Appended to the observation when no search is left."""
        return "No search is left. Answer now.\n\n"
