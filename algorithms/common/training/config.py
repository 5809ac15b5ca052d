"""The sections `loss`, `optimizer`, `warm_start` and `critic` of a configuration. No torch, so --help is fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from igsearch_env.errors import check_literals, check_range

Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm", "token-sum"]


@dataclass(frozen=True)
class LossConfig:
    """The policy loss."""

    clip_ratio_low: float = 0.2
    """Lower clip range: the ratio is clipped at 1 - clip_ratio_low."""
    clip_ratio_high: float = 0.2
    """Upper clip range: the ratio is clipped at 1 + clip_ratio_high (DAPO's clip-higher: 0.28)."""
    dual_clip: float | None = None
    """c > 1: for negative advantages the loss is at most -A c (verl: 3.0). None: off (Search-R1)."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of each token (PPO), or its geometric mean over the sequence (GSPO)."""
    aggregation: Aggregation = "token-mean"
    """How token losses are aggregated; names as in verl's `agg_loss`."""
    horizon: int | None = None
    """Divisor of seq-mean-token-sum-norm (Dr. GRPO: the maximum response length, tokens)."""
    kl_coef: float = 0.0
    """Weight of the KL term towards the starting policy (Search-R1: 0.001); above 0, a frozen copy of it is kept."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL term (Schulman's names)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance_sampling: Literal["token", "sequence"] = "token"
    """Ratio of a token's importance weight: its own, or the product over all policy tokens of its trajectory."""
    importance_sampling_cap: float | None = 2.0
    """C: weight each token's loss by min(pi_trainer / pi_sampler, C) where the sampler differs from the policy that is
    updated: another engine or precision, or earlier weights (rollout.max_staleness). No effect where they are the same.
    None: off."""

    def __post_init__(self) -> None:
        check_literals(self, "loss")
        if self.importance_sampling_cap is not None:
            check_range("loss.importance_sampling_cap", self.importance_sampling_cap, 1e-9)
        check_range("loss.clip_ratio_low", self.clip_ratio_low, 0, 1)
        check_range("loss.clip_ratio_high", self.clip_ratio_high, 0)
        check_range("loss.kl_coef", self.kl_coef, 0)
        if self.dual_clip is not None:
            check_range("loss.dual_clip", self.dual_clip, 1)
        if self.aggregation == "seq-mean-token-sum-norm":
            check_range("loss.horizon (which seq-mean-token-sum-norm needs)", self.horizon or 0, 1)

    @property
    def skips_zeros(self) -> bool:
        """Whether tokens without an advantage contribute nothing, neither themselves nor to the weights of others."""
        others = self.ratio == "sequence" or self.aggregation == "seq-mean-token-mean"
        whole = self.importance_sampling_cap is not None and self.importance_sampling == "sequence"
        return not (others or whole or self.kl_coef or self.entropy_coef)

    def after_sampling(self, *, exact: bool) -> LossConfig:
        """The loss on what a sampler wrote: without importance weights if its log-probs are `exact`ly the policy's."""
        return replace(self, importance_sampling_cap=None) if exact else self


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate schedule."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"token_budget"})

    lr: float = 3e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta1: float = 0.9
    """Decay rate of the running mean of the gradient."""
    beta2: float = 0.99
    """Decay rate of the running mean of the squared gradient."""
    warmup_steps: int = 5
    """Steps of linear learning rate warm-up."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or decayed linearly or by a cosine, to 0 one step after the last."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    epochs: int = 1
    """Passes over each buffer per step."""
    num_minibatches: int = 1
    """Optimizer steps per epoch; trajectories are assigned to mini-batches at random."""
    token_budget: int = 2_048
    """Maximum padded tokens per micro-batch: limits memory; does not change results."""

    def __post_init__(self) -> None:
        check_literals(self, "optimizer")
        check_range("optimizer.lr", self.lr, 0)
        check_range("optimizer.warmup_steps", self.warmup_steps, 0)
        check_range("optimizer.max_grad_norm", self.max_grad_norm, 1e-9)
        check_range("optimizer.epochs", self.epochs, 1)
        check_range("optimizer.num_minibatches", self.num_minibatches, 1)
        check_range("optimizer.token_budget", self.token_budget, 1)

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (counted from 1) in a run of `steps`."""
        peak = max(self.warmup_steps, 1)
        if step <= peak:
            return self.lr * step / peak
        progress = (step - peak) / (steps - peak + 1)
        if self.lr_scheduler_type == "linear":
            return self.lr * (1 - progress)
        if self.lr_scheduler_type == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr


@dataclass(frozen=True)
class WarmStartConfig:
    """A supervised start: demonstrations of a scripted policy, then the model's own successful episodes."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"save_every"})

    folder: Path | None = None
    """Folder of the warm start. Its policy is trained instead of policy.path, and made first unless it is there; runs
    may share it. None: no warm start."""
    demonstrations: int = 1_500
    """Successful episodes of the scripted policy to train on; fewer if the training questions give fewer."""
    titles: float = 0.6
    """Fraction of demonstrations that search the supporting titles, where these are known; the others search the
    question."""
    vague: float = 0.15
    """Fraction of demonstrations that begin with a vague query."""
    rounds: int = 1
    """Rounds of rejection sampling: the policy plays training questions and is trained on its successful episodes."""
    questions: int = 480
    """Training questions that the policy plays in a round."""
    samples: int = 4
    """Episodes per question in a round; at most two different successful ones of a question are kept."""
    temperature: float = 0.7
    """Sampling temperature in a round."""
    epochs: int = 1
    """Passes over the episodes of a round."""
    batch_size: int = 16
    """Episodes per optimizer step."""
    lr: float = 1e-4
    """Peak learning rate of a round: a linear warm-up over a tenth of its steps, then a linear decay to 0."""
    save_every: int = 50
    """Optimizer steps between checkpoints; there is one at the end of each round, too."""

    def __post_init__(self) -> None:
        for name in ("demonstrations", "questions", "samples", "epochs", "batch_size", "save_every"):
            check_range(f"warm_start.{name}", getattr(self, name), 1)
        check_range("warm_start.titles", self.titles, 0, 1)
        check_range("warm_start.vague", self.vague, 0, 1)
        check_range("warm_start.rounds", self.rounds, 0)
        check_range("warm_start.temperature", self.temperature, 1e-3)
        check_range("warm_start.lr", self.lr, 0)


@dataclass(frozen=True)
class CriticConfig:
    """The critic; other settings (epochs, mini-batches, gradient norm, memory) are those of `optimizer`."""

    lr: float = 1e-3
    """Learning rate."""
    warmup_steps: int = 0
    """Steps of linear learning rate warm-up."""
    value_clip: float = 0.5
    """Clip range of a value around its old one in an update, beyond which the loss does not decrease further."""

    def __post_init__(self) -> None:
        check_range("critic.lr", self.lr, 0)
        check_range("critic.warmup_steps", self.warmup_steps, 0)
        check_range("critic.value_clip", self.value_clip, 1e-9)
