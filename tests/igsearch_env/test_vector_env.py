"""The vector form: the same numbers as single environments, with one retrieval and one scoring call a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import (
    PASSAGES,
    QUESTIONS,
    CountingRetriever,
    FailingRetriever,
    RecordingScorer,
    answer,
    info_of,
    make_envs,
    search,
    small_retriever,
)

from igsearch_env import IGSearchEnv, IGSearchVectorEnv
from retrievers import Passage, RetrievalError

CORPUS = {"random_source": "corpus", "dead_zone": 0.0}
# Per step one action for each of four environments: searches of different lengths, invalid actions, early answers.
PLAY = [
    [search("Alan Brin"), "hm", search("zzz"), answer("Ostue")],
    [search("Tolona"), search("Mira Sorel"), search("Vexo Glass"), "ignored"],
    ["hm", answer("botanist"), search("Karith"), "ignored"],
    [answer("Tolona"), "ignored", "no answer", "ignored"],
]


def test_is_made_by_gymnasium() -> None:
    envs = gymnasium.make_vec("IGSearch-v0", num_envs=4)
    assert isinstance(envs.unwrapped, IGSearchVectorEnv)
    observations, infos = envs.reset(seed=0)
    assert len(observations) == 4
    assert envs.observation_space.contains(observations)
    assert envs.action_space.contains(envs.action_space.sample())
    assert set(infos) == {"question_id", "_question_id", "attempts", "_attempts"}
    observations, rewards, terminations, truncations, infos = envs.step([search("river")] * 4)
    assert envs.observation_space.contains(observations)
    assert rewards.shape == terminations.shape == truncations.shape == (4,)
    assert terminations.dtype == truncations.dtype == np.bool_
    assert all(column.shape == (4,) for column in infos.values())
    envs.close()


def test_infos_are_masked_where_a_key_has_no_value() -> None:
    envs = make_envs(information_gain=CORPUS)
    envs.reset(options={"questions": QUESTIONS})
    *_, infos = envs.step(PLAY[0])
    assert infos["_query"].tolist() == [True, False, True, False]
    assert infos["query"].tolist() == ["Alan Brin", None, "zzz", None]
    assert infos["_passages"].tolist() == infos["_query"].tolist()
    assert infos["_information_gain"].tolist() == [True, False, False, False]
    assert infos["_invalid"].tolist() == [False, True, False, False]
    assert infos["_outcome"].tolist() == infos["_prediction"].tolist() == [False, False, False, True]
    assert infos["outcome"][3] == 1.0
    assert infos["passages"][2] == ()
    assert infos["_question_id"].all()
    assert infos["_attempts"].all()
    assert infos["information_gain"].dtype == infos["outcome"].dtype == np.float64


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
@pytest.mark.parametrize("baseline", ["random", "previous", "empty", "query"])
def test_equals_single_environments(protocol: str, baseline: str) -> None:
    options: dict[str, Any] = {
        "protocol": protocol,
        "information_gain": CORPUS | {"baseline": baseline},
        "max_searches": 3,
        "seed": 5,
    }
    envs = make_envs(autoreset_mode="Disabled", **options)
    singles = [IGSearchEnv(QUESTIONS, small_retriever(), top_k=2, **options) for _ in QUESTIONS]
    observations, _ = envs.reset(options={"questions": QUESTIONS})
    expected = [env.reset(options={"question": q})[0] for env, q in zip(singles, QUESTIONS, strict=True)]
    assert list(observations) == expected
    paid = 0
    for actions in PLAY:
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        for i, env in enumerate(singles):
            if env.trajectory.done:
                continue
            observation, reward, terminated, truncated, info = env.step(actions[i])
            assert (observations[i], terminations[i], truncations[i]) == (observation, terminated, truncated)
            assert rewards[i] == reward
            assert info_of(infos, i) == info
            paid += "information_gain" in info
    assert paid >= 4
    assert [t.stop_reason for t in envs.trajectories] == ["answered", "answered", "no_answer", "answered"]


def test_autoresets_as_gymnasium_does() -> None:
    options: dict[str, Any] = {"questions": QUESTIONS, "retriever": small_retriever(), "top_k": 2, "scorer": None}
    ours, theirs = make_envs(3, scorer=None), SyncVectorEnv([lambda: IGSearchEnv(**options) for _ in range(3)])
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ours.reset(seed=11)[0] == theirs.reset(seed=11)[0]
    ended = 0
    for number in range(12):
        actions = [answer("x") if (number + i) % 3 == 0 else search("Karith") for i in range(3)]
        for mine, yours in zip(ours.step(actions)[:4], theirs.step(actions)[:4], strict=True):
            assert list(mine) == list(yours)
        ended += sum(trajectory.done for trajectory in ours.trajectories)
    assert ended >= 6


def test_the_step_after_the_end_begins_a_new_episode() -> None:
    envs = make_envs(2)
    envs.reset(seed=1)
    observations, rewards, terminations, _, _ = envs.step([answer("x"), search("Karith")])
    assert (observations[0], terminations.tolist()) == ("", [True, False])
    observations, rewards, terminations, truncations, infos = envs.step([answer("Tolona"), search("Karith")])
    assert observations[0] == envs.trajectories[0].prompt
    assert envs.trajectories[0].turns == []  # the action of this step went nowhere
    assert (rewards[0], terminations[0], truncations[0]) == (0.0, False, False)
    assert infos["question_id"][0] == envs.trajectories[0].question.id
    assert "outcome" not in infos
    assert len(envs.trajectories[1].turns) == 2


def test_without_autoreset_ended_episodes_stay() -> None:
    scorer, retriever = RecordingScorer(), CountingRetriever(small_retriever())
    envs = make_envs(2, autoreset_mode="Disabled", scorer=scorer, retriever=retriever)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert IGSearchVectorEnv.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    envs.reset(options={"questions": [QUESTIONS[0]] * 2})
    envs.step([answer("Tolona"), "hm"])
    record = envs.trajectories[0]
    for action in (search("Karith"), answer("wrong"), "hm"):
        observations, rewards, terminations, truncations, infos = envs.step([action, search("Lurm")])
        assert envs.trajectories[0] is record
        assert len(record.turns) == 1
        assert (observations[0], rewards[0], terminations[0], truncations[0]) == ("", 0.0, True, False)
        assert infos["_question_id"].tolist() == [False, True]
    assert record.prediction == "Tolona"
    assert [query for call in retriever.calls for query in call] == ["Lurm"] * 3
    envs.step([answer("x"), answer("x")])
    _, rewards, terminations, truncations, _ = envs.step([answer("Tolona")] * 2)  # nothing runs any more
    assert (rewards.tolist(), (terminations | truncations).tolist()) == ([0.0, 0.0], [True, True])


def test_reset_mask_begins_only_those_anew() -> None:
    envs = make_envs(3, autoreset_mode="Disabled")
    envs.reset(options={"questions": QUESTIONS[:3]})
    envs.step([search("Karith"), answer("botanist"), search("Karith")])
    before = envs.trajectories
    mask = np.array([False, True, False])
    observations, infos = envs.reset(options={"reset_mask": mask, "questions": [QUESTIONS[3]] * 3})
    after = envs.trajectories
    assert (after[0] is before[0], after[2] is before[2]) == (True, True)
    assert (after[1].question, after[1].turns) == (QUESTIONS[3], [])
    assert observations == (before[0].turns[0].observation, after[1].prompt, before[2].turns[0].observation)
    assert infos["_question_id"].tolist() == [False, True, False]


def drawn(envs: IGSearchVectorEnv, seed: int | Sequence[int | None] | None, resets: int = 8) -> list[list[str]]:
    """Per reset the question ids; the first reset takes the seed."""
    ids = [
        [t.question.id for t in envs.trajectories] for _ in range(resets) if envs.reset(seed=seed if _ == 0 else None)
    ]
    return [list(column) for column in zip(*ids, strict=True)]


def test_seeds_reproduce_each_environment_on_its_own() -> None:
    one, same, listed = drawn(make_envs(3), 7), drawn(make_envs(3), 7), drawn(make_envs(3), [7, 8, 9])
    assert one == same == listed
    assert one[0] != one[1]
    assert drawn(make_envs(2), [9, 7]) == [one[2], one[0]]
    envs = make_envs(3)
    drawn(envs, 1)
    assert drawn(envs, [None, 8, None])[1] == one[1]


def test_a_seed_with_a_mask_leaves_the_others_alone() -> None:
    envs, untouched = make_envs(2), make_envs(2)
    envs.reset(seed=1)
    untouched.reset(seed=1)
    envs.reset(seed=50, options={"reset_mask": np.array([True, False])})
    assert drawn(envs, None)[1] == drawn(untouched, None)[1]


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
def test_one_retrieval_and_at_most_one_scoring_call_a_step(protocol: str) -> None:
    scorer, retriever = RecordingScorer(), CountingRetriever(small_retriever())
    envs = make_envs(4, scorer=scorer, retriever=retriever, protocol=protocol, max_searches=3)
    envs.reset(options={"questions": QUESTIONS})
    for actions in PLAY[:3]:
        queries, scorings = len(retriever.calls), len(scorer.calls)
        envs.step(actions)
        assert len(retriever.calls) - queries == 1
        assert len(scorer.calls) - scorings <= 1
    assert retriever.calls[0] == ["Alan Brin", "zzz"]
    assert len(scorer.calls) == (3 if protocol == "search_r1" else 2)
    envs = make_envs(2, scorer=scorer, retriever=retriever)
    envs.reset()
    queries, scorings = len(retriever.calls), len(scorer.calls)
    envs.step(["hm", answer("x")])
    assert (len(retriever.calls), len(scorer.calls)) == (queries, scorings)


class HalfFailing(FailingRetriever):
    """Fails the queries with "fail" in them, and answers the others of the same batch."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        found = [None if "fail" in query else self.inner.search([query], k)[0] for query in queries]
        if None in found:
            raise RetrievalError(self.MESSAGE, found)
        return [passages for passages in found if passages is not None]


def test_a_failure_in_part_ends_the_episodes_that_it_hit() -> None:
    envs = make_envs(3, retriever=HalfFailing(small_retriever()), autoreset_mode="Disabled")
    envs.reset(options={"questions": QUESTIONS[:3]})
    observations, rewards, terminations, truncations, infos = envs.step([search("fail"), search("Karith"), search("")])
    assert infos["stop_reason"].tolist() == ["retrieval_failed", None, None]
    assert [len(passages) > 0 for passages in infos["passages"]] == [False, True, False]
    assert FailingRetriever.MESSAGE not in "".join(observations)
    assert (terminations | truncations).tolist() == [True, False, False]
    assert rewards[0] == 0


def test_a_retrieval_failure_ends_all_that_searched_and_no_other() -> None:
    envs = make_envs(3, retriever=FailingRetriever(small_retriever()), autoreset_mode="Disabled")
    envs.reset(options={"questions": QUESTIONS[:3]})
    observations, rewards, terminations, truncations, infos = envs.step([search("fail"), search("Karith"), "hm"])
    assert observations[:2] == ("", "")
    assert observations[2] != ""
    assert (rewards.tolist(), terminations.any(), truncations.tolist()) == ([0.0] * 3, False, [True, True, False])
    assert infos["stop_reason"].tolist() == ["retrieval_failed", "retrieval_failed", None]


def test_siblings_draw_random_evidence_from_other_questions() -> None:
    scorer = RecordingScorer()
    envs = make_envs(4, scorer=scorer, top_k=1)
    envs.reset(options={"questions": [QUESTIONS[0], QUESTIONS[0], QUESTIONS[1], QUESTIONS[2]]})
    envs.step([search("Alan Brin"), search("Tolona"), search("Mira Sorel"), search("Ostue")])
    first, second = scorer.requests[:2]
    assert first.evidences[0] != second.evidences[0]
    assert first.evidences[1:3] == second.evidences[1:3]
    for evidence in first.evidences[1:3]:
        assert PASSAGES[0].text not in evidence.text
        assert PASSAGES[1].text not in evidence.text
