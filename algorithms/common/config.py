"""Configuration of a training run: one dataclass per section, read from the command line and a YAML file.

An algorithm extends `TrainConfig` with its own options. The docstrings of the fields are the --help text. `RESUMABLE`
lists the options of a section that may change when a run is resumed, because they do not change what a step computes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from algorithms.common.base.command_line import command_line, parse_options
from algorithms.common.base.yaml_options import yaml_arguments
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.config import LossConfig, OptimizerConfig, WarmStartConfig
from igsearch_env.errors import ConfigurationError, check_literals, check_range
from igsearch_env.information_gain import InformationGainConfig
from retrievers.credentials import masked

BUNDLED = Path(__file__).parent.parent / "configs"

OldLogprobs = Literal["sampled", "recomputed", "in update"]

# Option names of earlier versions and their current names: errors name the current one, and old runs can still be read.
RENAMED = {
    "rollout.questions": "rollout.questions_per_step",
    "rollout.server": "rollout.server_url",
    "rollout.gpu_memory_share": "rollout.gpu_memory_utilization",
    "rollout.cache_tokens": "rollout.kv_cache_tokens",
    "optimizer.minibatches": "optimizer.num_minibatches",
    "optimizer.schedule": "optimizer.lr_scheduler_type",
    "loss.clip_low": "loss.clip_ratio_low",
    "loss.clip_high": "loss.clip_ratio_high",
    "loss.kl_coefficient": "loss.kl_coef",
    "loss.entropy_coefficient": "loss.entropy_coef",
    "loss.truncated_importance": "loss.importance_sampling_cap",
    "policy.attention": "policy.attn_implementation",
    "policy.lora.targets": "policy.lora.target_modules",
    "keep_checkpoints": "save_total_limit",
    "trackers": "report_to",
    "lam": "gae_lambda",  # ppo
    "baseline": "gain_baseline",  # ig_grpo
}


MAX_THREADS = 1024  # far more than help; a system that can't start a thread ends the process without a message


@dataclass(frozen=True)
class TrainConfig:
    """Options of every algorithm."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset(
        {
            "steps",
            "run_dir",
            "overwrite",
            "config",
            "preset",
            "eval_every",
            "eval_limit",
            "skip_initial_evaluation",
            "save_every",
            "save_total_limit",
            "tracked_questions",
            "estimate_time",
        }
        | {"report_to", "project"}
    )

    steps: int = 40
    """Number of training steps."""
    seed: int = 0
    """Random seed of the run."""
    run_dir: Path | None = None
    """Folder of the run; default: runs/<algorithm>-seed<seed>. If it holds an interrupted run, that run is resumed."""
    overwrite: bool = False
    """Delete the run in run_dir instead of resuming it. On the command line only; a folder that is no run is kept."""
    config: Path | None = None
    """YAML file with any of these options, or a bundled one by name (smollm2-135m); the command line overrides it."""
    preset: str = ""
    """One of the sizes that the YAML file offers under `presets`: options that override the rest of the file."""
    eval_every: int = 10
    """Steps between evaluations; 0: only before the first and after the last step."""
    eval_limit: int = 20
    """Dev questions per data set in the evaluations during training; 0: all."""
    test_limit: int = 0
    """Test questions per data set in the evaluations before and after training; 0: all."""
    skip_initial_evaluation: bool = False
    """Do not evaluate on the test questions before the first step."""
    tracked_questions: int = 2
    """Training questions whose rollouts are recorded at every evaluation, to compare them over training; 0: none."""
    save_every: int = 10
    """Steps between checkpoints."""
    save_total_limit: int = 2
    """Number of checkpoints to keep; older ones are deleted."""
    estimate_time: bool = False
    """Print how long the run will take, measured on a few episodes before its first step."""
    report_to: tuple[Literal["wandb", "trackio", "mlflow", "swanlab", "comet_ml"], ...] = ()
    """Experiment trackers that receive the metrics, in addition to metrics.jsonl and TensorBoard."""
    project: str = "igsearch"
    """Name of the project in the trackers."""
    threads: int | None = None
    """Number of CPU threads of torch; None: one for each processor that other work leaves free when the run begins."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    information_gain: InformationGainConfig = field(default_factory=InformationGainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        check_literals(self)
        check_range("steps", self.steps, 0)
        check_range("seed", self.seed, 0)
        check_range("eval_every", self.eval_every, 0)
        check_range("eval_limit", self.eval_limit, 0)
        check_range("test_limit", self.test_limit, 0)
        check_range("tracked_questions", self.tracked_questions, 0)
        check_range("save_every", self.save_every, 1)
        check_range("save_total_limit", self.save_total_limit, 1)
        if self.threads is not None:
            check_range("threads", self.threads, 1, MAX_THREADS)
        smallest = self.rollout.questions_per_step * self.rollout.group_size
        if self.optimizer.num_minibatches > smallest:
            raise ConfigurationError(
                f"optimizer.num_minibatches={self.optimizer.num_minibatches}: "
                f"must be at most {smallest}, the number of trajectories of a step"
            )
        if self.rollout.max_staleness and self.rollout.engine == "transformers" and self.distributed.sharding != "none":
            raise ConfigurationError(
                f"rollout.max_staleness={self.rollout.max_staleness} with rollout.engine='transformers' and "
                f"distributed.sharding={self.distributed.sharding!r}: the only whole copy of the weights would write "
                "and score at the same time, and this engine changes its attention while it writes; use the builtin "
                "engine or vllm_server, or set rollout.max_staleness to 0"
            )

    def old_logprobs(self, *, exact: bool, needs_reference: bool) -> OldLogprobs:
        """Where the log-probs of the policy before the update come from.

        Args:
            exact: whether the sampler's log-probs are the trainer's.
            needs_reference: whether the advantages need the reference policy's.
        """
        if exact and not self.rollout.recompute_logprobs:
            return "sampled"
        # A single gradient step computes them itself, with the importance weights, unless something before needs them.
        single = self.optimizer.epochs * self.optimizer.num_minibatches == 1
        return "in update" if single and not needs_reference else "recomputed"


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """A configuration as plain data (paths as strings) with masked credentials, as saved in config.yaml."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result: dict[str, Any] = masked(plain(dataclasses.asdict(config)))
    return result


C = TypeVar("C", bound=TrainConfig)


def parse_config(config_class: type[C], argv: Sequence[str] | None = None, description: str | None = None) -> C:
    """Parse the command line on top of the YAML file that `--config` names.

    Raises `ConfigurationError` if the file is invalid; exits the program if the command line is invalid.
    """
    arguments = command_line() if argv is None else argv
    return parse_options(config_class, with_file(config_class, arguments), description, RENAMED)


def with_file(config_class: type[TrainConfig], arguments: Sequence[str]) -> list[str]:
    """A command line after the options of the YAML file that `--config` names; later options override earlier ones.

    Raises `ConfigurationError` if the file is invalid.
    """
    file, preset = _value_of("--config", arguments), _value_of("--preset", arguments)
    if file is None and preset is not None:
        raise ConfigurationError(f"--preset {preset}: presets are part of a configuration file; give its --config too")
    from_file = [] if file is None else yaml_arguments(config_class, configuration_file(file), RENAMED, preset)
    if "--overwrite" in from_file:
        raise ConfigurationError(
            f"{file}: 'overwrite' is true; a file can't ask for a folder to be deleted, remove the line and give "
            "--overwrite on the command line"
        )
    return [*from_file, *arguments]


def configuration_file(name: str) -> Path:
    """The file that `--config` names: a path, or the name of a bundled file without its ending.

    Raises `ConfigurationError` if there is neither; it lists the bundled ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    bundled = {file.stem: file for file in sorted(BUNDLED.glob("*.yaml"))}
    found = bundled.get(name.removesuffix(".yaml"))
    if found is None:
        near = difflib.get_close_matches(name, bundled, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"bundled ones are {', '.join(bundled)}"
        raise ConfigurationError(f"--config {name}: no such file; {hint}")
    return found


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option; of the last one, as everywhere on the command line."""
    for place, argument in reversed(list(enumerate(arguments))):
        if argument == option and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def check_siblings(group_size: int, option: str, instead: str) -> None:
    """Raise `ConfigurationError` if an option compares siblings and there are none, so that nothing would be learnt."""
    if group_size == 1:
        raise ConfigurationError(
            f"{option} compares the rollouts of a group, and rollout.group_size is 1: there is nothing to learn from; "
            f"raise rollout.group_size to at least 2, or {instead}"
        )


def check_unused(config: TrainConfig, condition: str, *names: str, instead: str) -> None:
    """Raise `ConfigurationError` if options that have no effect under a condition differ from their defaults."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(config)
    }
    for name in names:
        value = getattr(config, name)
        if value != defaults[name]:
            shown = name if dataclasses.is_dataclass(value) else f"{name}={value!r}"
            raise ConfigurationError(f"{shown} with {condition}: has no effect; leave it out, or {instead}")


def with_present_names(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a config.yaml of any version, under the current option names."""
    result = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        present = RENAMED.get(name, name).removeprefix(prefix)
        result[present] = with_present_names(value, f"{name}.") if isinstance(value, dict) else value
    return result


def command_with_present_names(command: Sequence[str]) -> list[str]:
    """The arguments of a training command of any version, with the current option names."""
    words: list[str] = []
    for word in command:
        if word in ("True", "False") and words and words[-1].startswith("--"):  # earlier versions gave booleans a value
            words[-1] = words[-1] if word == "True" else f"--no-{words[-1].removeprefix('--')}"
            continue
        name, equals, value = word.partition("=")
        present = RENAMED.get(name.removeprefix("--").replace("-", "_")) if word.startswith("--") else None
        words.append(f"--{present.replace('_', '-')}{equals}{value}" if present else word)
    return words
