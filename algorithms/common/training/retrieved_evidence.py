"""What each search adds to the evidence found so far (arXiv 2610.10179)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from igsearch_env.oracles import support
from igsearch_env.rewards import sub_exact_match
from igsearch_env.trajectory import Trajectory, Turn
from retrievers.base import Passage

Signal = Literal["coverage", "answer_match"]


def new_evidence(trajectory: Trajectory, signal: Signal) -> Iterator[tuple[Turn, float]]:
    """Every search with e_t = max(0, phi(t) - best phi before), in [0, 1] (Eq. 3).

    phi(t) is the share of the question's supporting passages that the first t searches found (`coverage`, as in
    `igsearch_env.oracles.support`; 0 where the question names none), or 1 if a passage of search t contains a golden
    answer, normalised as for exact match (`answer_match`), else 0. `information_gain` (ours): e_t is the gain of
    search t in probability, if it is at least 0.1, else 0.
    """
    question, best, read = trajectory.question, 0.0, list[Passage]()
    for turn in trajectory.turns:
        if not turn.is_search:
            continue
        if signal == "coverage":
            read += turn.passages
            potential = support(question, read) if question.supporting_titles else 0.0
        else:
            texts = [f"{passage.title}\n{passage.text}" for passage in turn.passages]
            potential = max((sub_exact_match(text, question.golden_answers) for text in texts), default=0.0)
        yield turn, max(0.0, potential - best)
        best = max(best, potential)


def check_evidence(buffer: RolloutBuffer, setting: str, instead: str) -> None:
    """Raise `RolloutBufferError` if searches found passages, but the data of no question say which are evidence.

    They may say that there is none, as of an unanswerable question (an empty list of supporting titles).

    Args:
        buffer: its questions and passages.
        setting: option that compares them, and its value, named in the error.
        instead: option and value to set instead.
    """
    found = any(turn.passages for t in buffer.trajectories for turn in t.turns)
    if found and all(group.question.metadata.get("supporting_titles") is None for group in buffer.groups):
        raise RolloutBufferError(
            f"none of {len(buffer.groups)} questions names its supporting titles, which {setting} compares "
            f"with the passages: use questions that name them (supporting_titles), or set {instead}"
        )
