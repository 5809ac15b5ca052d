"""Configuration of a training run, a dataclass a section. An algorithm's extends `TrainConfig` with knobs of its own.

`command_line.py` reads one; the docstrings of the fields are the help there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from algorithms.common.distributed.processes import DistributedConfig
from algorithms.common.model.pretrained import PolicyConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.rollout.sampler import RolloutConfig
from algorithms.common.training.learner import OptimizerConfig
from algorithms.common.training.loss import LossConfig
from igsearch_env.errors import ConfigurationError, check_choice, check_range
from igsearch_env.information_gain import InformationGainConfig

TRACKERS = ("wandb", "trackio")


@dataclass(frozen=True)
class TrainConfig:
    """What every algorithm's command takes."""

    steps: int = 40
    """Training steps."""
    seed: int = 0
    """Decides every draw of the run."""
    run_dir: Path | None = None
    """Folder of the run; default runs/<algorithm>-seed<seed>. An interrupted run in it is resumed."""
    overwrite: bool = False
    """Discard what run_dir holds instead of resuming it."""
    config: Path | None = None
    """YAML file with any of these keys; the command line overrides it."""
    eval_every: int = 10
    """Steps between evaluations; 0: only before the first and after the last."""
    eval_limit: int = 20
    """Questions of each family in the evaluations between; 0: all."""
    save_every: int = 10
    """Steps between checkpoints."""
    save_total_limit: int = 2
    """How many of the latest checkpoints to keep."""
    report_to: tuple[str, ...] = ()
    """Where metrics go besides metrics.jsonl and TensorBoard: wandb, trackio."""
    project: str = "igsearch"
    """Name of the project there."""
    threads: int | None = None
    """CPU threads of torch; None: its own choice."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    information_gain: InformationGainConfig = field(default_factory=InformationGainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        for tracker in self.report_to:
            check_choice("report_to", tracker, TRACKERS)
        check_range("steps", self.steps, 0)
        check_range("seed", self.seed, 0)
        check_range("eval_every", self.eval_every, 0)
        check_range("eval_limit", self.eval_limit, 0)
        check_range("save_every", self.save_every, 1)
        check_range("save_total_limit", self.save_total_limit, 1)
        smallest = self.rollout.questions_per_step * self.rollout.group_size
        if self.optimizer.num_minibatches > smallest:
            raise ConfigurationError(
                f"optimizer.num_minibatches={self.optimizer.num_minibatches}: "
                f"more than the {smallest} trajectories of a step"
            )


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """A configuration as plain data (paths as strings), as saved in config.yaml."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result
