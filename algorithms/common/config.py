"""Configuration of a training run, a dataclass a section. An algorithm's extends `TrainConfig` with knobs of its own.

`command_line.py` reads one; the docstrings of the fields are the help there.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from algorithms.common.loss import LossConfig
from algorithms.common.pretrained import DTYPES, PolicyConfig
from igsearch_env.errors import ConfigurationError, check_choice, check_range
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocol import FAMILIES
from igsearch_env.rewards import OUTCOME_REWARDS

SCHEDULES = ("constant", "linear", "cosine")
ENGINES = ("builtin", "transformers", "vllm", "vllm_server")
SHARDINGS = ("none", "fsdp2")
TRACKERS = ("wandb", "trackio")
EVAL_SLOTS = 128  # questions that are being answered at once in an evaluation


@dataclass(frozen=True)
class EnvConfig:
    """The environment: questions, search engine, protocol."""

    questions: tuple[str, ...] = ("bundled",)
    """Training questions: `bundled`, or question files."""
    eval_questions: tuple[str, ...] = ("bundled",)
    """Questions to evaluate on: `bundled` (its dev split during training, its test split at the end), or files."""
    corpus: str = "bundled"
    """What to search: `bundled`, a corpus file, an index folder, or the address of a retrieval service."""
    retriever: str = "auto"
    """How: `auto` (a file by BM25), `bm25`, an index folder, an address; several joined by + are fused by rank."""
    rerank: str = ""
    """A cross-encoder that orders what was found anew, by name or folder; none by default."""
    top_k: int = 3
    """Passages a search."""
    max_searches: int = 4
    """Actions before the agent must answer."""
    attempts: int = 1
    """Attempts at each question, with a reflection prompt between them (MR-Search); the last one counts."""
    protocol: str = "search_r1"
    """Tag family: search_r1 or autorefine."""
    prompt: str = "bare"
    """Prompt: a name (search_r1, autorefine, bare), a template with {question}, or @FILE with a template in it."""
    outcome_reward: str = "em"
    """em, f1 or autorefine."""
    max_observation_tokens: int | None = None
    """Passages of one search are cut to this many tokens, their tags stay closed (Search-R1: 500). None: never."""
    max_failure_rate: float = 0.2
    """The run stops when more than this share of a step's episodes end by a retrieval failure."""

    def __post_init__(self) -> None:
        for name in ("questions", "eval_questions"):
            if not getattr(self, name):
                raise ConfigurationError(f"env.{name} is empty: name `bundled` or at least one question file")
        check_choice("env.protocol", self.protocol, FAMILIES)
        check_choice("env.outcome_reward", self.outcome_reward, OUTCOME_REWARDS)
        check_range("env.top_k", self.top_k, 1)
        check_range("env.max_searches", self.max_searches, 1, 100)
        check_range("env.attempts", self.attempts, 1, 100)
        check_range("env.max_failure_rate", self.max_failure_rate, 0, 1)
        if self.max_observation_tokens is not None:
            check_range("env.max_observation_tokens", self.max_observation_tokens, 1)


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is collected."""

    questions: int = 16
    """Questions a step."""
    group_size: int = 8
    """G, rollouts of each question."""
    temperature: float = 1.0
    """Sampling temperature; log-probs are of the tempered distribution."""
    max_new_tokens: int = 32
    """Tokens a turn, at most."""
    cache_tokens: int = 262_144
    """Tokens whose keys and values are held: bounds the episodes that are played at once (one takes a context)."""
    token_budget: int = 4_096
    """Tokens of a pass that reads prompts or observations, or scores answers: bounds memory, changes no number."""
    step_share: float = 1.0
    """Share of the live episodes whose turns are finished when the environment steps. Below 1 retrieval overlaps with
    decoding, at the price of more and smaller calls; on two cores it did not pay."""
    recompute_logprobs: bool = False
    """Compute the old log-probs again before the update; always done where another engine or precision sampled."""
    engine: str = "builtin"
    """What writes: builtin, transformers (its continuous batching), vllm (in this process) or vllm_server."""
    server: str = ""
    """Address of the vLLM server, http://HOST:PORT."""
    gpu_memory_share: float = 0.4
    """Share of the GPU's memory that vllm in this process takes."""
    dtype: str | None = None
    """Precision of the weights that sample and score, held beside those that are trained: bfloat16 where float32
    weights are trained. None: the trained weights themselves."""

    def __post_init__(self) -> None:
        check_range("rollout.questions", self.questions, 1)
        check_range("rollout.group_size", self.group_size, 1)
        check_range("rollout.temperature", self.temperature, 1e-3)
        check_range("rollout.max_new_tokens", self.max_new_tokens, 1)
        check_range("rollout.cache_tokens", self.cache_tokens, 1)
        check_range("rollout.token_budget", self.token_budget, 1)
        check_range("rollout.step_share", self.step_share, 0, 1)
        check_range("rollout.gpu_memory_share", self.gpu_memory_share, 0.01, 1)
        check_choice("rollout.engine", self.engine, ENGINES)
        if self.dtype is not None:
            check_choice("rollout.dtype", self.dtype, DTYPES)
        if (self.engine == "vllm_server") != bool(self.server):
            raise ConfigurationError(
                f"rollout.engine={self.engine!r}, rollout.server={self.server!r}: an address goes with vllm_server, "
                "and vllm_server with an address"
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    lr: float = 3e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.99
    """Decay of the gradient's square."""
    warmup_steps: int = 5
    """Steps of linear warm-up."""
    schedule: str = "constant"
    """After the warm-up: constant, or linear or cosine down to 0 at the last step."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    epochs: int = 1
    """Passes over each buffer."""
    minibatches: int = 1
    """Optimizer steps a pass; trajectories are dealt out at random."""
    token_budget: int = 2_048
    """Padded tokens a micro-batch: bounds memory, changes no number."""

    def __post_init__(self) -> None:
        check_choice("optimizer.schedule", self.schedule, SCHEDULES)
        check_range("optimizer.lr", self.lr, 0)
        check_range("optimizer.warmup_steps", self.warmup_steps, 0)
        check_range("optimizer.max_grad_norm", self.max_grad_norm, 1e-9)
        check_range("optimizer.epochs", self.epochs, 1)
        check_range("optimizer.minibatches", self.minibatches, 1)
        check_range("optimizer.token_budget", self.token_budget, 1)

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, from 1, of a run of `steps`."""
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        if self.schedule == "linear":
            return self.lr * (1 - progress)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, started by `accelerate launch` or `torchrun`."""

    sharding: str = "none"
    """none: every process holds all weights (DDP); fsdp2: each holds a part of weights, gradients and optimizer."""
    timeout_minutes: float = 30.0
    """A process that waits longer for the others stops the run."""

    def __post_init__(self) -> None:
        check_choice("distributed.sharding", self.sharding, SHARDINGS)
        check_range("distributed.timeout_minutes", self.timeout_minutes, 0.01)


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
    keep_checkpoints: int = 2
    """How many of the latest checkpoints to keep."""
    trackers: tuple[str, ...] = ()
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
        for tracker in self.trackers:
            check_choice("trackers", tracker, TRACKERS)
        check_range("steps", self.steps, 0)
        check_range("seed", self.seed, 0)
        check_range("eval_every", self.eval_every, 0)
        check_range("eval_limit", self.eval_limit, 0)
        check_range("save_every", self.save_every, 1)
        check_range("keep_checkpoints", self.keep_checkpoints, 1)
        smallest = self.rollout.questions * self.rollout.group_size
        if self.optimizer.minibatches > smallest:
            raise ConfigurationError(
                f"optimizer.minibatches={self.optimizer.minibatches}: more than the {smallest} trajectories of a step"
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
