"""Which algorithm and options a trainer of TRL uses, and which options of TRL contradict them."""

from __future__ import annotations

import dataclasses
from typing import Any

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.comparison.registry import ALGORITHMS
from igsearch_env.errors import ConfigurationError, check_choice

# Options of `GRPOConfig` that would do nothing or something else here: the value that they must have, and the repair.
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "remove_unused_columns": (False, "the questions are in the columns that it removes"),
    "use_vllm": (False, "rollouts use the engines of this project: set config.rollout.engine to vllm or vllm_server"),
    "use_transformers_continuous_batching": (False, "set config.rollout.engine to transformers"),
    "mask_truncated_completions": (False, "it counts every episode as truncated that ends without an EOS token"),
    "scale_rewards": ("group", "advantages are the algorithm's: set an option of it, as GRPOConfig.scale_by_std"),
    "multi_objective_aggregation": ("sum_then_normalize", "advantages are the algorithm's"),
    "reward_weights": (None, "rewards are the algorithm's: set an option of it, as IGGRPOConfig.alpha"),
    "top_p": (1.0, "rollouts sample from the whole distribution"),
    "top_k": (0, "rollouts sample from the whole distribution"),
    "min_p": (None, "rollouts sample from the whole distribution"),
    "repetition_penalty": (1.0, "rollouts sample from the policy's own distribution"),
    "generation_kwargs": (None, "rollouts are this project's: set config.rollout"),
    "chat_template_kwargs": (None, "set config.policy.chat_template_arguments"),
    "max_tool_calling_iterations": (None, "set config.env.max_searches"),
}
# Sections and options of `TrainConfig` for which TRL has its own.
OF_TRL = {
    "loss": "loss_type, importance_sampling_level, epsilon, epsilon_high, delta, beta, entropy_coef",
    "optimizer": "learning_rate, lr_scheduler_type, warmup_steps, max_grad_norm, num_iterations, steps_per_generation",
    "distributed": "nothing: accelerate launch configures it",
    "warm_start": "nothing: begin with a policy that igsearch warm-start has made",
    "report_to": "report_to",
}
OF_POLICY = ("chat", "chat_template_arguments", "chat_template_date", "context_length")  # options that are used here


def choose_algorithm(
    algorithm: str | Algorithm, config: TrainConfig | None, arguments: Any
) -> tuple[Algorithm, TrainConfig]:
    """The algorithm and the options of a trainer, with the group size, temperature and seed of TRL's `arguments`.

    Raises `ConfigurationError` for an algorithm that TRL's trainer can't run, and for options that contradict others.
    """
    check_arguments(arguments)
    if isinstance(algorithm, Algorithm):
        if config is None:
            raise ConfigurationError(
                f"algorithm is an instance of {type(algorithm).__name__} and config is None: pass the options that it "
                "was made with as config, too"
            )
        config = with_arguments(config, arguments)
    else:
        check_choice("algorithm", algorithm, ALGORITHMS)
        entry = ALGORITHMS[algorithm]
        if config is not None and not isinstance(config, type(entry.config)):
            raise ConfigurationError(
                f"config is a {type(config).__name__}: for algorithm={algorithm!r} it must be a "
                f"{type(entry.config).__name__}"
            )
        config = with_arguments(entry.config if config is None else config, arguments)
        algorithm = entry.kind(config)
    assert isinstance(algorithm, Algorithm)
    if algorithm.critic is not None:
        raise ConfigurationError(
            f"algorithm {algorithm.name!r} needs a critic, which TRL's GRPOTrainer does not have: choose another one, "
            f"or train with algorithms/{algorithm.name}.py"
        )
    if config.rollout.max_staleness:
        raise ConfigurationError(
            f"config.rollout.max_staleness={config.rollout.max_staleness}: TRL collects each batch right before its "
            f"update; set it to 0, or train with algorithms/{algorithm.name}.py"
        )
    if getattr(config, "dynamic_sampling", False):
        raise ConfigurationError(
            "config.dynamic_sampling=True: TRL fixes the questions of a step, so groups can't be replaced; set it to "
            "False, or train with algorithms/grpo.py"
        )
    if arguments.num_generations < 2 and algorithm.name != "reinforce_plus_plus":
        raise ConfigurationError(
            f"num_generations={arguments.num_generations}: {algorithm.name} compares the rollouts of a question; set "
            "it to at least 2"
        )
    longest = config.rollout.max_new_tokens * (config.env.max_searches + 1) * config.env.attempts
    if arguments.max_completion_length is not None and arguments.max_completion_length < longest:
        raise ConfigurationError(
            f"max_completion_length={arguments.max_completion_length}: an episode may have {longest} tokens of the "
            "policy (rollout.max_new_tokens for each of env.max_searches + 1 turns of env.attempts attempts); set "
            f"max_completion_length to at least {longest}, or lower those"
        )
    return algorithm, config


def check_arguments(arguments: Any) -> None:
    """Raise `ConfigurationError` for an option of TRL that would be ignored, or would contradict the rollouts."""
    for name, (needed, why) in ARGUMENTS.items():
        value = getattr(arguments, name, needed)
        if value != needed and not (needed is None and not value):
            raise ConfigurationError(f"{name}={value!r}: must be {needed!r} with an algorithm of this project: {why}")


def with_arguments(config: TrainConfig, arguments: Any) -> TrainConfig:
    """The options, with the group size, batch size, temperature and seed of TRL's arguments."""
    default, plain = type(config)(), TrainConfig()
    for name, instead in OF_TRL.items():
        if getattr(default, name) != getattr(plain, name):  # as the loss of GSPO
            raise ConfigurationError(
                f"config is a {type(config).__name__}, which has its own {name}, but TRL trains: choose an algorithm "
                f"without, such as grpo, and set options of GRPOConfig ({instead})"
            )
        if getattr(config, name) != getattr(default, name):
            raise ConfigurationError(f"config.{name} is set, but TRL trains: set options of GRPOConfig ({instead})")
    for field in dataclasses.fields(PolicyConfig):
        value = getattr(config.policy, field.name)
        if field.name not in OF_POLICY and value != getattr(default.policy, field.name):
            raise ConfigurationError(
                f"config.policy.{field.name}={value!r}: TRL loads the model; pass it as model, and adapters as "
                f"peft_config. Of this section {', '.join(OF_POLICY)} may be set"
            )
    size = arguments.num_generations
    wanted = {
        "rollout.group_size": ("num_generations", size),
        "rollout.questions_per_step": (
            "generation_batch_size / num_generations",
            arguments.generation_batch_size // size,
        ),
        "rollout.temperature": ("temperature", arguments.temperature),
        "seed": ("seed", arguments.seed),
    }
    changed: dict[str, Any] = {}
    for path, (option, value) in wanted.items():
        section, _, name = path.rpartition(".")
        given = getattr(getattr(config, section) if section else config, name)
        usual = getattr(getattr(default, section) if section else default, name)
        if given not in (usual, value):
            raise ConfigurationError(f"config.{path}={given!r}, but {option} of GRPOConfig is {value!r}: set only that")
        changed[path] = value
    rollout = {path.partition(".")[2]: value for path, value in changed.items() if "." in path}
    return dataclasses.replace(config, seed=changed["seed"], rollout=dataclasses.replace(config.rollout, **rollout))
