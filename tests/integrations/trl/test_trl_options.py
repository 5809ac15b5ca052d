"""What a trainer of TRL refuses, before it loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trl_trainers import WARNINGS, arguments

from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.config import LossConfig, OptimizerConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.gspo import GSPO, GSPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.ppo import PPO, PPOConfig
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import bundled_world
from integrations.trl.dataset import question_dataset
from integrations.trl.options import choose_algorithm
from integrations.trl.trainer import IGSearchTrainer

pytestmark = WARNINGS


def test_options_of_trl_are_used(tmp_path: Path) -> None:
    options = arguments(tmp_path, num_generations=4, temperature=0.7, seed=5)
    given = IGGRPOConfig(alpha=0.1, env=EnvConfig(top_k=1), rollout=RolloutConfig(max_new_tokens=16))
    algorithm, config = choose_algorithm("ig_grpo", given, options)
    assert isinstance(algorithm, IGGRPO)
    assert algorithm.options is config
    assert (config.rollout.group_size, config.rollout.questions_per_step) == (4, 4)
    assert (config.rollout.temperature, config.seed, config.rollout.max_new_tokens) == (0.7, 5, 16)
    assert config.env.top_k == 1
    assert choose_algorithm("mr_search", None, arguments(tmp_path, max_completion_length=480))[1].env.attempts == 3
    own = GRPO(GRPOConfig())
    assert choose_algorithm(own, GRPOConfig(), options)[0] is own


REFUSED: dict[str, tuple[Any, TrainConfig | None, dict[str, Any], str]] = {
    "unknown": ("ig_gpro", None, {}, r"algorithm='ig_gpro'.*did you mean 'ig_grpo'"),
    "critic": ("ppo", None, {}, r"'ppo' needs a critic.*algorithms/ppo\.py"),
    "critic of an instance": (PPO(PPOConfig()), PPOConfig(), {}, "needs a critic"),
    "instance alone": (GRPO(GRPOConfig()), None, {}, "config is None: pass the options"),
    "options of another": ("ig_grpo", GRPOConfig(), {}, "must be a IGGRPOConfig"),
    "loss": ("grpo", GRPOConfig(loss=LossConfig(kl_coef=0.1)), {}, r"config\.loss is set.*beta"),
    "own loss": (GSPO(GSPOConfig()), GSPOConfig(), {}, "GSPOConfig, which has its own loss.*importance_sampling_level"),
    "optimizer": ("grpo", GRPOConfig(optimizer=OptimizerConfig(lr=1.0)), {}, "learning_rate"),
    "model": ("grpo", GRPOConfig(policy=PolicyConfig(path="other")), {}, r"config\.policy\.path='other'"),
    "group size": ("grpo", GRPOConfig(rollout=RolloutConfig(group_size=3)), {}, "num_generations of GRPOConfig is 8"),
    "seed": ("grpo", GRPOConfig(seed=3), {}, "seed of GRPOConfig is 42"),
    "dynamic sampling": ("grpo", GRPOConfig(dynamic_sampling=True), {}, "dynamic_sampling=True"),
    "staleness": ("grpo", GRPOConfig(rollout=RolloutConfig(max_staleness=1)), {}, "max_staleness=1: TRL collects each"),
    "completion length": ("grpo", None, {"max_completion_length": 100}, "at least 160"),
    "attempts": ("mr_search", None, {}, "max_completion_length=256: .* at least 480"),
    "vllm": ("grpo", None, {"use_vllm": True}, r"config\.rollout\.engine to vllm"),
    "top_p": ("grpo", None, {"top_p": 0.9}, r"top_p=0\.9: must be 1\.0"),
    "truncated": ("grpo", None, {"mask_truncated_completions": True}, "without an EOS token"),
    "scale": ("grpo", None, {"scale_rewards": "batch"}, "scale_by_std"),
    "weights": ("grpo", None, {"reward_weights": [1.0]}, r"IGGRPOConfig\.alpha"),
    "columns": ("grpo", None, {"remove_unused_columns": True}, "questions are in the columns"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused(case: str, tmp_path: Path) -> None:
    algorithm, config, options, message = REFUSED[case]
    with pytest.raises(ConfigurationError, match=message):
        choose_algorithm(algorithm, config, arguments(tmp_path, **options))


@pytest.mark.parametrize("algorithm", ["grpo", "ig_grpo", "ig_grpo_potential", "rloo", "mr_search", "igpo", "gigpo"])
def test_a_group_of_one_is_refused_where_rollouts_are_compared(algorithm: str, tmp_path: Path) -> None:
    options = arguments(tmp_path, max_completion_length=480)
    options.num_generations = 1  # the constructor of `GRPOConfig` refuses it, too
    with pytest.raises(ConfigurationError, match=r"(num_generations|group_size).*1"):
        choose_algorithm(algorithm, None, options)
    assert choose_algorithm("reinforce_plus_plus", None, options)[1].rollout.group_size == 1


def foreign(**columns: Any) -> Any:
    """A data set of other columns."""
    import datasets

    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_funcs": [len]}, "reward_funcs are given together with an algorithm"),
        ({"environment_factory": object}, "environment_factory is given"),
        ({"rollout_func": len}, "rollout_func is given"),
        ({"train_dataset": foreign(prompt=["Who?"])}, "no column 'id'.*question_dataset"),
        ({"train_dataset": ["Who?"]}, "train_dataset is a list"),
        ({"train_dataset": foreign(prompt=[])}, "has no rows"),
        ({"train_dataset": question_dataset(bundled_world().questions["dev"][:1])}, "fewer than the 2 of a generation"),
        ({"eval_dataset": foreign(prompt=["Who?"])}, "no column 'id'"),
    ],
)
def test_arguments_of_the_trainer_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"train_dataset": question_dataset(), "algorithm": "grpo", **options}
    with pytest.raises(ConfigurationError, match=message):
        IGSearchTrainer("bundled", arguments(tmp_path), **given)
