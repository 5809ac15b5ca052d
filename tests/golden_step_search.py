"""StepSearch on golden cases: an episode whose passages and gold documents are the case's."""

from __future__ import annotations

from typing import Any

from golden_reader import Case
from helpers import answer, played, search

from algorithms.step_search import StepSearch, StepSearchConfig
from igsearch_env import measure_gains
from igsearch_env.gain_sources import progress_made
from igsearch_env.questions import Question
from igsearch_env.rewards import f1
from igsearch_env.trajectory import ANSWERED, NO_ANSWER
from retrievers import BM25Retriever, Passage


def step_scores(case: Case) -> dict[str, Any]:
    """Gain, redundancy and reward of each search, and what the episode earns at its end."""
    texts = dict.fromkeys(text for part in (case.get("golden_info"), *case.get("informations")) for text in part)
    passages = {text: Passage(f"p{number}", f"Page {number}", text) for number, text in enumerate(texts)}
    gold = [passages[text] for text in case.get("golden_info")]
    names = {"supporting_titles": [p.title for p in gold], "supporting_ids": [p.id for p in gold]}
    question = Question("q", "?", tuple(case.get("target")), "made up", names)
    found = [[passages[text] for text in texts] for texts in case.get("informations")]
    turns = [(search(query), list(part)) for query, part in zip(case.get("searches"), found, strict=True)]
    said = case.get("answer")
    trajectory = played(question, *turns, (answer(said or ""), ()))
    measure_gains(
        [trajectory],
        None,
        retriever=BM25Retriever(list(passages.values())),
        information_gain={"source": "similarity"},
    )
    searches = trajectory.turns[:-1]
    trajectory.stop_reason = ANSWERED
    rewards = {
        flag: StepSearch(StepSearchConfig(redundancy=flag)).turn_rewards(trajectory)[:-1] for flag in (True, False)
    }
    if said is None:
        trajectory.stop_reason = NO_ANSWER
    else:
        trajectory.outcome = f1(said, question.golden_answers)
    last = StepSearch(StepSearchConfig()).turn_rewards(trajectory)
    return {
        "information_gains": [progress_made(turn.gain) for turn in searches if turn.gain],
        "redundancy_penalty": (rewards[False] - rewards[True]).tolist(),
        "step_scores": [] if said is None else last[:-1].tolist(),  # then it earns nothing else
        "score": trajectory.outcome + last[-1],
    }
