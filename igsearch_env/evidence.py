"""Builds what a scorer reads for a search: the context before the evidence, then the real or a random evidence.

The evidence is the block of passages; in the autorefine family the (passages, refine) pair, replaced jointly.

This is the context form "trajectory": exactly what the policy saw. `skeleton.py` has the form "skeleton".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from igsearch_env.protocols import Protocol
from igsearch_env.scorers import Segment
from igsearch_env.trajectory import Trajectory, Turn
from retrievers.base import Retriever

MIN_EVIDENCE_CHARS = 10  # searches with less evidence have no gain (IG-Search `ig_reward.py`)
_MARKUP = re.compile(r"</?\w+>")


@dataclass(frozen=True, slots=True)
class SearchStep:
    """A search to score: turn `index` of `trajectory`."""

    trajectory: Trajectory
    index: int


def search_steps(trajectories: Sequence[Trajectory]) -> list[SearchStep]:
    """Every search that returned enough text to be scored, in order."""
    return [
        SearchStep(trajectory, index)
        for trajectory in trajectories
        for index, turn in enumerate(trajectory.turns)
        if turn.is_search and has_evidence(turn)
    ]


def has_evidence(turn: Turn) -> bool:
    """Whether a search found passages that read as at least `MIN_EVIDENCE_CHARS` characters, markup not counted."""
    if any(p.title for p in turn.passages):
        return True  # `Doc 1(Title: t)` alone has as many
    shown = _MARKUP.sub("", turn.observation) or "".join(p.text for p in turn.passages)  # the latter if made by hand
    return bool(turn.passages) and len(shown.strip()) >= MIN_EVIDENCE_CHARS


def context(step: SearchStep) -> tuple[Segment, ...]:
    """The text before the evidence of a step, up to and including its query."""
    return (*history(step.trajectory, step.index), _written(step.trajectory, step.index))


def history(trajectory: Trajectory, end: int) -> tuple[Segment, ...]:
    """The opening and the turns before `end`, as the policy saw them."""
    segments = [Segment(trajectory.opening, trajectory.prompt_ids or None, "prompt", trajectory.system)]
    for index in range(end):
        turn = trajectory.turns[index]
        segments += [
            _written(trajectory, index),
            Segment(turn.observation, turn.observation_ids or None, turn.observation_role),
        ]
    return tuple(segments)


def _written(trajectory: Trajectory, index: int) -> Segment:
    turn = trajectory.turns[index]
    return Segment(turn.text, turn.completion_ids or None, "policy")


def _refinement(trajectory: Trajectory, index: int, protocol: Protocol) -> str:
    """What the policy wrote about the evidence of turn `index`, with its markup, or ""."""
    return protocol.refinement(trajectory.turns[index + 1].text) if index + 1 < len(trajectory.turns) else ""


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """A (passages, refine) pair to draw from. Ordered by question, so that the order of a pool is deterministic."""

    question: tuple[str, str]
    index: int
    block: str  # passages with their tags
    refine: str  # with its tags, or ""


def evidence_of(step: SearchStep, protocol: Protocol) -> Evidence:
    """The evidence that a step returned."""
    question = step.trajectory.question
    turn = step.trajectory.turns[step.index]
    refine = _refinement(step.trajectory, step.index, protocol) if protocol.refines else ""
    return Evidence((question.dataset, question.id), step.index, protocol.evidence(turn.passages), refine)


def skeleton_segment(evidence: Evidence) -> Segment:
    """An evidence as it reads in a skeleton."""
    return Segment("\n" + evidence.block + (f"\n{evidence.refine}" if evidence.refine else ""))


def segment(evidence: Evidence, step: SearchStep, protocol: Protocol) -> Segment:
    """An evidence as it reads in place of the real one of `step`."""
    # Text of the environment after the block (the last call) is kept for every evidence.
    after = protocol.after_evidence(step.trajectory.turns[step.index].observation)
    return Segment(f"{protocol.evidence_lead}{evidence.block}{after}{evidence.refine}", None, protocol.observation_role)


def real_segment(evidence: Evidence, step: SearchStep, protocol: Protocol) -> Segment:
    """The evidence of `step` itself, with the token ids that the policy read, if they are known."""
    real = segment(evidence, step, protocol)
    turn = step.trajectory.turns[step.index]
    if not evidence.refine and turn.observation_ids:
        return Segment(real.text, turn.observation_ids, protocol.observation_role)
    return real


def query_evidence(step: SearchStep, real: Evidence, protocol: Protocol) -> Evidence:
    """The query itself as evidence: as many passages as the search found, each with the query as title and text.

    The refinement, if there is one, is the query too.
    """
    turn = step.trajectory.turns[step.index]
    query = turn.query or ""
    block = protocol.evidence([replace(passage, title=query, text=query) for passage in turn.passages])
    return Evidence(("", ""), 0, block, protocol.write_refinement(query) if real.refine else "")


def corpus_evidence(
    real: Evidence, count: int, passages: int, protocol: Protocol, retriever: Retriever, rng: np.random.Generator
) -> list[Evidence]:
    """`count` evidences of `passages` random passages each.

    No policy refined these. If the real evidence was refined, the text of the first random passage, cut to the
    same number of words, serves as the refinement, so that all branches have the same form and length.
    """
    words = len(protocol.refined_text(real.refine).split())
    made = []
    for _ in range(count):
        for _ in range(20):  # the retrieved passages are no baseline; a tiny corpus has no others
            drawn = retriever.sample(min(passages, len(retriever)), rng)
            if protocol.evidence(drawn) != real.block:
                break
        refine = protocol.write_refinement(" ".join(drawn[0].text.split()[:words])) if real.refine else ""
        made.append(Evidence(("", ""), 0, protocol.evidence(drawn), refine))
    return made
