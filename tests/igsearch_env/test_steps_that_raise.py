"""After a step that raised, an episode can't be continued; a reset begins another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers import QUESTIONS, CountingRetriever, RecordingScorer, make_env, make_envs, small_retriever

from igsearch_env import ConfigurationError, Search
from igsearch_env.scorers import ScoreRequest
from retrievers import Passage


class RaisesOnce(CountingRetriever):
    """Its first search raises."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        found = super().search(queries, k)
        if len(self.calls) == 1:
            raise ValueError("a mistake")
        return found


class ScorerRaisesOnce(RecordingScorer):
    """Its first call raises."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        found = super().score(requests)
        if len(self.calls) == 1:
            raise ValueError("a mistake")
        return found


@pytest.mark.parametrize("part", ["retriever", "scorer"])
def test_an_environment_asks_for_a_reset(part: str) -> None:
    made = RaisesOnce(small_retriever()) if part == "retriever" else ScorerRaisesOnce()
    env = make_env(**{part: made})
    env.reset(options={"question": QUESTIONS[0]})
    with pytest.raises(ValueError, match="a mistake"):
        env.step(Search("Karith"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"last step of this episode raised an error.*reset\(\)"):
            env.step(Search("Karith"))
    assert len(env.trajectory.turns) == 1
    env.reset(options={"question": QUESTIONS[0]})
    assert "Karith" in env.step(Search("Karith"))[0]


def test_a_vector_environment_asks_for_a_reset() -> None:
    envs = make_envs(2, retriever=RaisesOnce(small_retriever()))
    envs.reset(options={"questions": QUESTIONS[:2]})
    with pytest.raises(ValueError, match="a mistake"):
        envs.step([Search("Karith")] * 2)
    envs.reset(options={"questions": QUESTIONS[:2], "reset_mask": np.array([True, False])})
    with pytest.raises(ConfigurationError, match=r"episode 1 of those that are running raised an error.*reset\(\)"):
        envs.step([Search("Karith")] * 2)
    assert [len(trajectory.turns) for trajectory in envs.trajectories] == [0, 1]
    envs.reset(options={"questions": QUESTIONS[:2]})
    assert all("Karith" in observation for observation in envs.step([Search("Karith")] * 2)[0])


def test_an_action_that_is_refused_leaves_the_episode_as_it_was() -> None:
    env = make_env()
    env.reset(options={"question": QUESTIONS[0]})
    with pytest.raises(ConfigurationError, match="is a int"):
        env.step(7)  # type: ignore[arg-type]
    assert "Karith" in env.step(Search("Karith"))[0]
