"""Reads a transcript as the released code of IG-Search does (`ig_reward.py` at da299c4): by its tags alone.

Text is taken as it stands, whoever wrote it, so the quirks of that code are kept: a message of the environment that
contains `<search> ... </search>` counts as a search and shifts the searches after it to earlier evidence, and an
unclosed `<refine>` runs on to the next `</refine>`, unless a search or an answer begins on a new line before it.
There is one difference: reading starts at the end of the prompt. The original starts at `<|im_start|>assistant`, and
without it takes the tags in the instructions of a plain prompt for the first search.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_SEARCH = "<search>query</search>"  # for evidence without a search, as in the original
WITHOUT_SEARCH_CHARS = 512  # of the transcript, if it contains no search, as in the original


@dataclass(frozen=True, slots=True)
class SkeletonStep:
    """One block of evidence with the search and the refinement that are paired with it, markup included."""

    search: str
    evidence: str
    refine: str  # "" if there is none
    end: int  # of the evidence in the transcript


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A transcript without what lies between its blocks."""

    opening: str
    """Everything before the first search, without white space at its end."""
    steps: tuple[SkeletonStep, ...]

    def context(self, number: int) -> str:
        """The text up to and including the search of step `number`."""
        blocks = [self.opening]
        for step in self.steps[:number]:
            blocks += [step.search, step.evidence, *([step.refine] if step.refine else [])]
        return "\n".join([*blocks, self.steps[number].search])


def read_skeleton(text: str, start: int, evidence_tag: str, *, refines: bool) -> Skeleton:
    """The skeleton of a transcript whose prompt ends at `start`. Each block of evidence takes linear time."""
    searches = [text[first:last] for first, last in blocks(text, "search", start)]
    evidences = blocks(text, evidence_tag, start)
    steps = []
    for number, (first, last) in enumerate(evidences):
        following = evidences[number + 1][0] if number + 1 < len(evidences) else len(text)
        search = searches[number] if number < len(searches) else NO_SEARCH
        refine = _refine(text, last, following) if refines else ""
        steps.append(SkeletonStep(search, text[first:last], refine, last))
    opened = text.find("<search>", start)
    opening = text[:WITHOUT_SEARCH_CHARS] if opened < 0 else text[:opened].rstrip()
    return Skeleton(opening, tuple(steps))


def blocks(text: str, tag: str, start: int) -> list[tuple[int, int]]:
    """Spans of the blocks of a tag, each from an opening tag to the next closing one."""
    found: list[tuple[int, int]] = []
    while True:
        first = text.find(f"<{tag}>", start)
        last = text.find(f"</{tag}>", first + len(tag) + 2) if first >= 0 else -1
        if last < 0:
            return found
        start = last + len(tag) + 3
        found.append((first, start))


def _refine(text: str, start: int, end: int) -> str:
    """The first refinement that begins in text[start:end], closed if the policy did not close it."""
    opened = text.find("<refine>", start)
    if not start <= opened < end:
        return ""
    begin = opened + len("<refine>")
    closed = text.find("</refine>", begin)
    stops = [closed + len("</refine>")] if closed >= 0 else []
    stops += [at for tag in ("<search>", "<answer>") if (at := _line_with(text, tag, begin)) is not None]
    block = text[opened : min(stops, default=len(text))]
    if block.rstrip().endswith("</refine>"):
        return block
    return f"<refine>{block.removeprefix('<refine>').strip()}</refine>"


def _line_with(text: str, tag: str, start: int) -> int | None:
    """Position of the first line break after `start` that only white space separates from a `tag`."""
    at = text.find(tag, start)
    while at >= 0:
        before = text[start:at]
        written = len(before.rstrip())
        line_break = before.find("\n", written)
        if line_break >= 0:
            return start + line_break
        at = text.find(tag, at + 1)
    return None
