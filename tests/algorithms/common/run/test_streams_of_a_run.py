"""The random streams that a run uses: all distinct, and those of rollouts are each used once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from training_runs import question_file

from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.trainer import train
from algorithms.common.training.config import OptimizerConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.ppo import PPO, PPOConfig
from retrievers import random_streams


@pytest.mark.parametrize(("algorithm", "config_class"), [(IGGRPO, IGGRPOConfig), (PPO, PPOConfig)])
def test_all_streams_of_a_run_are_distinct(
    algorithm: Any, config_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: Counter[tuple[Any, ...]] = Counter()
    entropies: dict[tuple[Any, ...], int] = {}
    entropy = random_streams._entropy

    def recorded(name: str, seed: int, counters: tuple[int | str, ...]) -> int:
        key = (name, seed, *counters)
        used[key] += 1
        entropies[key] = entropy(name, seed, counters)
        return entropies[key]

    monkeypatch.setattr(random_streams, "_entropy", recorded)
    questions = question_file(tmp_path / "questions.jsonl", 14)
    config = config_class(
        steps=3,
        eval_every=2,
        eval_limit=1,
        run_dir=tmp_path / "run",
        policy=PolicyConfig(path="bundled"),
        env=EnvConfig(questions=(questions,), eval_questions=(questions,)),
        rollout=RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12),
        optimizer=OptimizerConfig(num_minibatches=2, token_budget=600),
    )
    train(algorithm(config), config)
    episodes = [key for key in used if key[0] == "episode" and len(key) == 5]  # seed, step, refill, place
    assert len(episodes) == 3 * 3 * 3
    assert all(used[key] == 1 for key in episodes)
    assert {"torch", "questions of an epoch", "mini-batches of the policy"} <= {key[0] for key in used}
    assert ("random evidence" in {key[0] for key in used}) == (algorithm is IGGRPO)
    assert ("mini-batches of the critic" in {key[0] for key in used}) == (algorithm is PPO)
    assert len(set(entropies.values())) == len(entropies)
