"""The update of a policy on one buffer, and the log-probs that it needs: recomputed ones and those of the reference."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from algorithms.common.model.policy import BasePolicy, Policy
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.training.config import LossConfig
from algorithms.common.training.epochs import run_epochs
from algorithms.common.training.learner import Learner
from algorithms.common.training.loss import importance_weights, kl_penalty, mismatch, policy_loss, token_weights
from retrievers.random_streams import random_stream


def policy_update(
    learner: Learner,
    reference: Policy | BasePolicy | None,
    buffer: RolloutBuffer,
    advantages: Float32s,
    loss: LossConfig,
    *,
    temperature: float,
    lr: float,
    step: int,
    seed: int,
    on_policy: bool = False,
) -> dict[str, float]:
    """Gradient steps on one buffer; returns the means over them of the logged values, the gradient norm and `lr`.

    If the loss of a token depends on nothing but its own log-prob and advantage, sequences are read only up to their
    last token with an advantage, and those without one are left out: the gradient is the same. The logged values are
    then means over the tokens read.

    Args:
        learner: of a `PolicyModule`; its `options` set the number of epochs and mini-batches.
        reference: the starting policy, needed if `loss.kl_coef` is not 0.
        advantages: one per policy token.
        temperature: at which the buffer was sampled.
        step: of the run, from 1; with `seed`, it determines how trajectories are assigned to mini-batches.
        on_policy: take the log-probs of the passes themselves as the old ones, which is the same as recomputing them
            before if there is a single gradient step. The logged values then include how far the buffer's differ, and
            the importance weights of `loss` are computed from the difference.
    """
    if buffer.importance is not None:
        advantages = advantages * buffer.importance
    steps = run_epochs(
        learner,
        buffer,
        advantages,
        partial(_micro_batch_loss, learner.module, reference, loss, temperature, on_policy),
        rng=random_stream("mini-batches of the policy", seed, step),
        shuffle=learner.options.num_minibatches > 1,
        lr=lr,
        what=f"step {step}",
        skip_zeros=loss.skips_zeros,
    )
    means: dict[str, list[float]] = {}
    read = 0.0
    for _, sums in steps:  # one may have read nothing: a mini-batch is empty after failed retrievals
        tokens = sums.pop("tokens", 0.0)
        read += tokens
        for name, value in sums.items():
            means.setdefault(name, []).append(value if name == "loss/policy" else value / max(tokens, 1.0))
    metrics = {name: float(np.mean(values)) for name, values in means.items()}
    metrics["update/read_share"] = read / (learner.options.epochs * len(advantages))
    return {**metrics, "policy/grad_norm": float(np.mean([norm for norm, _ in steps])), "policy/lr": lr}


def _micro_batch_loss(
    module: torch.nn.Module,
    reference: Policy | BasePolicy | None,
    config: LossConfig,
    temperature: float,
    on_policy: bool,
    batch: MicroBatch,
    *,
    tokens: int,
    sequences: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A `MiniBatchLoss`: policy loss, entropy bonus and KL term towards the reference."""
    mask = batch.mask_BT
    bonus = config.entropy_coef
    chosen, entropy = module(batch.ids_BT, mask, temperature, entropy_gradient=bonus > 0)
    logprobs_BT = torch.zeros_like(batch.old_logprobs_BT).masked_scatter(mask, chosen)
    weights_BT = token_weights(mask, config.aggregation, horizon=config.horizon, tokens=tokens, sequences=sequences)
    old_BT = logprobs_BT.detach() if on_policy else batch.old_logprobs_BT
    # Sums over the tokens read, which `policy_update` divides by their number.
    parts = {"tokens": mask.sum()}
    advantages_BT = batch.advantages_BT
    if on_policy:
        difference_BT = old_BT - batch.old_logprobs_BT  # trainer - sampler
        parts |= {"mismatch/kl": -difference_BT[mask].sum(), "mismatch/abs_mean": difference_BT[mask].abs().sum()}
        if cap := config.importance_sampling_cap:
            importance_BT = importance_weights(difference_BT, mask, config.importance_sampling, cap)
            advantages_BT = advantages_BT * importance_BT
            weighed = importance_BT[mask]
            parts |= {"importance/mean": weighed.sum(), "importance/capped_share": (weighed >= cap).sum()}
    result = policy_loss(logprobs_BT, old_BT, advantages_BT, mask, config)
    loss = (result.loss_BT * weights_BT).sum()
    parts["loss/policy"] = loss.detach()
    if bonus:
        loss = loss - bonus * (entropy * weights_BT[mask]).sum()
    if reference is not None and config.kl_coef:
        with torch.no_grad():
            before, _ = reference.token_logprobs(batch.ids_BT, mask, temperature)
        kl = kl_penalty(chosen, before, config.kl_estimator)
        loss = loss + config.kl_coef * (kl * weights_BT[mask]).sum()
        parts["policy/kl_reference"] = kl.detach().sum()
    for name, values_BT in (
        ("policy/clip_fraction", result.clipped_BT),
        ("policy/dual_clip_fraction", result.dual_clipped_BT),
        ("policy/kl_old", result.approx_kl_BT),
    ):
        parts[name] = values_BT.detach()[mask].sum()
    return loss, parts


def recompute_logprobs(
    learner: Learner, buffer: RolloutBuffer, temperature: float, loss: LossConfig | None = None
) -> dict[str, float]:
    """Set the log-probs of the buffer to the trainer's own; returns how far the sampler's differ from them.

    If `loss` has importance weights, also set `buffer.importance`, the weights that correct for the difference.
    """
    sampled = buffer.logprobs
    trained = learner.map_policy_tokens(buffer, lambda ids_BT, mask_BT: learner.module(ids_BT, mask_BT, temperature)[0])
    buffer.set_logprobs(trained)
    metrics = mismatch(trained, sampled)
    if loss is not None and loss.importance_sampling_cap is not None:
        cap, counts = loss.importance_sampling_cap, torch.from_numpy(buffer.policy_tokens)
        mask_NT = torch.arange(int(counts.max())) < counts[:, None]
        log_ratio_NT = torch.zeros(mask_NT.shape).masked_scatter(mask_NT, torch.from_numpy(trained - sampled))
        weights = importance_weights(log_ratio_NT, mask_NT, loss.importance_sampling, cap)[mask_NT]
        buffer.importance = weights.numpy()
        metrics |= {
            "importance/mean": float(weights.mean()),
            "importance/capped_share": float((weights >= cap).float().mean()),
        }
    return metrics


def reference_logprobs(
    learner: Learner, reference: Policy | BasePolicy, buffer: RolloutBuffer, temperature: float
) -> Float32s:
    """The starting policy's log-prob of each policy token, in the micro-batches of the learner."""
    return learner.map_policy_tokens(
        buffer, lambda ids_BT, mask_BT: reference.token_logprobs(ids_BT, mask_BT, temperature)[0], whole=True
    )
