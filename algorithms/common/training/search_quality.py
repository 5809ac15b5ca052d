"""What a search found, judged from its passages and the question's data: rewards of turns that need no model.

Passages count as far as observations show them; texts are compared as for exact match, by whole words.
"""

from __future__ import annotations

from igsearch_env.demonstrator import answer_in, passages_read, passages_shown
from igsearch_env.oracles import support
from igsearch_env.trajectory import Trajectory


def found_answer(trajectory: Trajectory, turn: int) -> bool:
    """Whether a golden answer stands in the passages of turn `turn`; False if it is no search that found any.

    Yes and no can't be read: they are found with the pages of all supporting titles.
    """
    return answer_in(trajectory.question, passages_shown(trajectory.turns[turn])) is not None


def found_new_support(trajectory: Trajectory, turn: int) -> bool:
    """Whether turn `turn` found a supporting passage (`igsearch_env.oracles.support`) that no earlier turn found.

    False where the question's data name no supporting titles.
    """
    question = trajectory.question
    if not question.supporting_titles:
        return False
    return support(question, passages_read(trajectory, turn + 1)) > support(question, passages_read(trajectory, turn))
