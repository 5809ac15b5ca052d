"""The training loop. From `python algorithms/ig_grpo.py` to the gradient it is two hops: `main`, then `update`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from algorithms.common.algorithm import Algorithm
from algorithms.common.buffer import Floats, RolloutBuffer
from algorithms.common.config import TrainConfig, parse_config
from algorithms.common.critic import per_token
from algorithms.common.errors import TrainingError
from algorithms.common.estimators import all_equal_share
from algorithms.common.loss import kl_penalty, policy_loss, token_weights
from algorithms.common.policy import Policy
from algorithms.common.rollout import collect
from algorithms.common.run import Run
from algorithms.common.scoring import measure_information_gain, recompute_logprobs
from igsearch_env.errors import IGSearchError
from retrievers.base import Retriever, RetrieverError

C = TypeVar("C", bound=TrainConfig)


def main(algorithm_class: Callable[[C], Algorithm], config_class: type[C], description: str | None = None) -> None:
    """Run an algorithm from the command line."""
    try:
        config = parse_config(config_class, description=description)
        train(algorithm_class(config), config)
    except (IGSearchError, RetrieverError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last checkpoint")


def train(algorithm: Algorithm, config: TrainConfig, retriever: Retriever | None = None) -> Run:
    """Train a policy; `retriever` is searched instead of `config.env.corpus`.

    Everything that a step draws is derived from (seed, step): any step can be run again.
    """
    with Run(algorithm, config, retriever) as run:
        for step in run.steps():
            with timed("step") as times:
                with timed("rollout", times):
                    buffer = collect_batch(run, algorithm, step)
                if config.rollout.recompute_logprobs:
                    with timed("old_logprobs", times):
                        recompute_logprobs(
                            run.policy,
                            buffer,
                            temperature=config.rollout.temperature,
                            token_budget=config.rollout.token_budget,
                            cache_tokens=config.rollout.cache_tokens,
                        )
                if algorithm.needs_information_gain:
                    with timed("information_gain", times):
                        measure_information_gain(buffer, run.information_gain(step, buffer.prefixes))
                buffer.prefixes = None  # stale after the update
                if run.reference is not None and algorithm.needs_reference:
                    with timed("reference", times):
                        buffer.reference_logprobs = reference_logprobs(run.reference, buffer, config)
                if run.critic is not None:
                    with timed("values", times):
                        buffer.values = run.critic.values(buffer)
                advantages = checked(algorithm.advantages(buffer), buffer, f"{algorithm.name}.advantages")
                with timed("update", times):
                    losses = update(run, buffer, advantages, step)
                if run.critic is not None:
                    with timed("critic", times):
                        targets = checked(algorithm.value_targets(buffer), buffer, f"{algorithm.name}.value_targets")
                        losses |= run.critic.update(buffer, targets, step, config.seed)
            run.record(step, {**describe(buffer, advantages), **losses, **times}, buffer)
    return run


def checked(values: Floats, buffer: RolloutBuffer, name: str) -> Floats:
    """`values` as float32, if there is a finite one for each policy token; else `TrainingError`."""
    expected = (int(buffer.policy_tokens.sum()),)
    if np.shape(values) != expected:
        raise TrainingError(
            f"{name} gave shape {np.shape(values)}: it must be {expected}, one value per policy token; "
            "buffer.broadcast makes it of one per trajectory"
        )
    if not np.isfinite(values).all():
        raise TrainingError(f"{name} gave {np.asarray(values)[~np.isfinite(values)][0]}: values must be finite")
    return np.asarray(values, dtype=np.float32)


def reference_logprobs(reference: Policy, buffer: RolloutBuffer, config: TrainConfig) -> Floats:
    """The starting policy's log-prob of each policy token."""
    temperature = config.rollout.temperature
    return per_token(
        buffer,
        lambda ids_BT, mask_BT: reference.token_logprobs(ids_BT, mask_BT, temperature)[0],
        reference,
        config.optimizer.token_budget,
    )


def collect_batch(run: Run, algorithm: Algorithm, step: int) -> RolloutBuffer:
    """One step's experience: as many groups that the algorithm keeps as there are questions a step.

    Groups that it does not keep are replaced by fresh ones, at most `run.MAX_REFILLS` times (DAPO: 10).
    """
    config = run.config.rollout
    groups, failed, attempts = [], 0, 0
    for refill in range(run.MAX_REFILLS):
        decoder = run.decoder(config.questions * config.group_size, config.temperature)
        batch = collect(
            decoder,
            run.engine,
            run.questions(step, refill),
            group_size=config.group_size,
            seed=(run.config.seed, step, refill),
            step_share=config.step_share,
        )
        episodes = config.questions * config.group_size
        if batch.failed > run.config.env.max_failure_rate * episodes:
            raise TrainingError(
                f"step {step}: retrieval failed for {batch.failed} of {episodes} episodes, more than "
                f"env.max_failure_rate={run.config.env.max_failure_rate}; mend the retriever, then run again to resume"
            )
        groups += [group for group in batch.groups if algorithm.keep(group)]
        failed += batch.failed
        attempts += sum(len(t.attempts) for t in batch.trajectories)
        if len(groups) >= len(batch.groups):
            break
    buffer = RolloutBuffer(groups[: config.questions] or batch.groups, failed, {"step": step, "attempts": attempts})
    if algorithm.needs_information_gain:
        buffer.prefixes = decoder.prefixes()  # of the last batch, if groups were replaced
    buffer.check_trainable()
    return buffer


def update(run: Run, buffer: RolloutBuffer, advantages: Floats, step: int) -> dict[str, float]:
    """Gradient steps on one buffer. The split into micro-batches bounds memory and changes no number."""
    config, loss_config = run.config.optimizer, run.config.loss
    rng = np.random.default_rng([run.config.seed, step, 1])
    totals: dict[str, float] = {}
    norms = []
    for _ in range(config.epochs):
        order = rng.permutation(len(buffer.trajectories)) if config.minibatches > 1 else None
        rows = np.arange(len(buffer.trajectories)) if order is None else order
        for part in np.array_split(rows, config.minibatches):
            tokens = int(buffer.policy_tokens[part].sum())
            run.optimizer.zero_grad()
            for batch in buffer.micro_batches(advantages, part.tolist(), config.token_budget, run.policy.pad_id):
                batch = batch.to(run.policy.device)
                mask = batch.mask_BT
                chosen, entropy = run.policy.token_logprobs(
                    batch.ids_BT,
                    mask,
                    run.config.rollout.temperature,
                    entropy_gradient=loss_config.entropy_coefficient > 0,
                )
                logprobs_BT = torch.zeros_like(batch.old_logprobs_BT).masked_scatter(mask, chosen)
                weights_BT = token_weights(
                    mask, loss_config.aggregation, horizon=loss_config.horizon, tokens=tokens, sequences=len(part)
                )
                result = policy_loss(logprobs_BT, batch.old_logprobs_BT, batch.advantages_BT, mask, loss_config)
                loss = (result.loss_BT * weights_BT).sum()
                parts = {"loss/policy": loss.detach(), "policy/entropy": entropy.detach().sum() / tokens}
                if loss_config.entropy_coefficient:
                    loss = loss - loss_config.entropy_coefficient * (entropy * weights_BT[mask]).sum()
                if run.reference is not None and loss_config.kl_coefficient:
                    with torch.no_grad():
                        reference, _ = run.reference.token_logprobs(batch.ids_BT, mask, run.config.rollout.temperature)
                    kl = kl_penalty(chosen, reference, loss_config.kl_estimator)
                    loss = loss + loss_config.kl_coefficient * (kl * weights_BT[mask]).sum()
                    parts["policy/kl_reference"] = kl.detach().sum() / tokens
                loss.backward()  # type: ignore[no-untyped-call]
                for name, values_BT in (
                    ("policy/clip_fraction", result.clipped_BT),
                    ("policy/dual_clip_fraction", result.dual_clipped_BT),
                    ("policy/kl_old", result.approx_kl_BT),
                ):
                    parts[name] = values_BT.detach()[mask].sum() / tokens
                for name, value in parts.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
            norm = torch.nn.utils.clip_grad_norm_(run.policy.model.parameters(), config.max_grad_norm)
            if not torch.isfinite(norm):
                raise TrainingError(
                    f"step {step}: the gradient norm is {norm}, the loss {totals.get('loss/policy')}; the weights are "
                    "left as they were. Lower optimizer.lr, or look for a reward that is not finite; the run resumes "
                    "from its last checkpoint"
                )
            for group in run.optimizer.param_groups:
                group["lr"] = run.learning_rate(step)
            run.optimizer.step()
            norms.append(float(norm))
    metrics = {name: total / len(norms) for name, total in totals.items()}
    return {**metrics, "policy/grad_norm": float(np.mean(norms)), "policy/lr": run.learning_rate(step)}


def describe(buffer: RolloutBuffer, advantages: Floats) -> dict[str, float]:
    """What a batch of rollouts looked like, averaged over its trajectories."""
    trajectories = buffer.trajectories
    turns = [turn for t in trajectories for turn in t.turns]
    gains = [turn.gain.value for turn in turns if turn.gain is not None]
    correct = buffer.outcomes > 0
    all_fail = [not any(t.outcome > 0 for t in group.trajectories) for group in buffer.groups]
    metrics = {
        "reward": float(buffer.outcomes.mean()),
        "searches": float(np.mean([t.searches for t in trajectories])),
        "answered": float(np.mean([t.stop_reason == "answered" for t in trajectories])),
        "correct": float(correct.mean()),
        "invalid_actions": float(np.mean([type(turn.action).__name__ == "Invalid" for turn in turns])),
        "all_fail": float(np.mean(all_fail)),
        "all_equal": all_equal_share(buffer.outcomes, buffer.group_index),
        "response_tokens": float(buffer.policy_tokens.mean()),
        "retrieval_failures": float(buffer.failed),
        "attempts": float(buffer.metadata.get("attempts", 0)),
        "advantage/abs_mean": float(np.abs(advantages).mean()),
        "advantage/zero_share": float((advantages == 0).mean()),
    }
    if gains:
        metrics |= {
            "information_gain/mean": float(np.mean(gains)),
            "information_gain/std": float(np.std(gains)),
            "information_gain/positive_share": float(np.mean(np.array(gains) > 0)),
        }
    return metrics


@contextmanager
def timed(name: str, times: dict[str, float] | None = None) -> Any:
    """Seconds spent in the block, as `time/<name>` in `times` (a new dictionary by default, which is yielded)."""
    times = {} if times is None else times
    start = time.perf_counter()
    yield times
    times[f"time/{name}"] = time.perf_counter() - start
