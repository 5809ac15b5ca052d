"""The episodes that teach a policy to guess, and what it is trained on."""

from __future__ import annotations

import json
from pathlib import Path

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.environment import EpisodeConfig, make_rules
from examples.guessing_policy import Args, episodes, main, padded
from igsearch_env import names_unseen_answer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world


def test_guesses_name_the_answer_and_titles_do_not() -> None:
    policy, questions = Policy.load(PolicyConfig()), bundled_world().questions["train"][:7]
    stepper = EpisodeStepper(questions, bundled_retriever(), None, make_rules(EpisodeConfig(), policy.tokenizer))
    for guess in (True, False):
        played = episodes(policy, stepper, questions, guess=guess)
        assert all(names_unseen_answer(trajectory, 0) is guess for trajectory in played)
        assert all(trajectory.outcome == 1 for trajectory in played)
        ids_BT, mask_BT = padded(policy, played)
        for trajectory, ids, mask in zip(played, ids_BT, mask_BT, strict=True):
            assert ids[mask].tolist() == [token for turn in trajectory.turns for token in turn.completion_ids]


def test_it_writes_a_policy_and_its_questions(tmp_path: Path) -> None:
    main(Args(output=tmp_path, num_questions=3, steps=1))
    assert Policy.load(PolicyConfig(path=str(tmp_path / "policy"))).tokenizer.eos_ids
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [q.id for q in bundled_world().questions["train"][:3]]
