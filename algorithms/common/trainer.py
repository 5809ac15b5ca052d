"""The training loop. From `python algorithms/ig_grpo.py` to the gradient it is two hops: `main`, then `update`."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.command_line import refuse
from algorithms.common.base.errors import TrainingError
from algorithms.common.config import TrainConfig, parse_config
from algorithms.common.distributed.failures import end_process, lost_process
from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.sequences import MicroBatch
from algorithms.common.run.run import Run
from algorithms.common.training.batch_metrics import batch_metrics, throughput
from algorithms.common.training.learner import map_policy_tokens
from algorithms.common.training.loss import importance_weights, kl_penalty, mismatch, policy_loss, token_weights
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.base import Retriever, RetrieverError

C = TypeVar("C", bound=TrainConfig)


def main(algorithm_class: Callable[[C], Algorithm], config_class: type[C], description: str | None = None) -> None:
    """Run an algorithm from the command line."""
    signal.signal(signal.SIGTERM, _terminated)
    message: str | None = "interrupted: the same command goes on from the last checkpoint"
    with suppress(KeyboardInterrupt):  # which may also come while an error is being dealt with
        try:
            config = parse_config(config_class, description=description)
        except ConfigurationError as error:
            refuse(error)
        try:
            train(algorithm_class(config), config)
            message = None
        except (IGSearchError, RetrieverError, RuntimeError, OSError) as error:
            told = explained(error)
            if told is None:
                raise
            message = f"error: {told}"
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_process(message)


def explained(error: Exception) -> str | None:
    """What a person is told of an error that ends a run; None of one that is a mistake of the program."""
    if isinstance(error, (IGSearchError, RetrieverError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}: free some space, and the same command goes on from the last checkpoint, which is intact"
    if isinstance(error, RuntimeError) and "RANK" in os.environ:
        lost = lost_process(error, f"process {os.environ['RANK']}")
        return None if lost is None else str(lost)
    return None


def _terminated(number: int, frame: FrameType | None) -> None:
    """A launcher whose other process died, or a cluster that wants its machine back; some say it twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def train(algorithm: Algorithm, config: TrainConfig, retriever: Retriever | None = None) -> Run:
    """Train a policy; `retriever` is searched instead of `config.env.corpus`.

    Everything that a step draws is derived from (seed, step): any step can be run again. Under a launcher every process
    runs this, and each holds the same buffer (`distributed.py`).
    """
    with Run(algorithm, config, retriever) as run:
        for step in run.steps():
            with timed("step") as times:
                with timed("rollout", times):
                    buffer = collect_batch(run, algorithm, step)
                metrics: dict[str, float] = {}
                if config.rollout.recompute_logprobs or not run.sampler.exact:
                    with timed("old_logprobs", times):
                        metrics |= recompute_logprobs(run, buffer)
                if algorithm.needs_information_gain:
                    with timed("information_gain", times):
                        gain = run.information_gain(step, buffer.prefixes)
                        measure_information_gain(buffer, gain, run.processes)
                buffer.prefixes = None  # stale after the update
                if run.reference is not None and algorithm.needs_reference:
                    with timed("reference", times):
                        buffer.reference_logprobs = reference_logprobs(run, buffer)
                if run.critic is not None:
                    with timed("values", times):
                        buffer.values = run.critic.values(buffer)
                advantages = checked(algorithm.advantages(buffer), buffer, f"{algorithm.name}.advantages")
                with timed("update", times):
                    metrics |= update(run, buffer, advantages, step)
                if run.critic is not None:
                    with timed("critic", times):
                        targets = checked(algorithm.value_targets(buffer), buffer, f"{algorithm.name}.value_targets")
                        metrics |= run.critic.update(buffer, targets, step, config.seed)
                with timed("weights", times):
                    run.sampler.sync_weights()
            described = batch_metrics(buffer, advantages, max_searches=config.env.max_searches)
            run.record(step, {**described, **metrics, **times, **throughput(buffer, times)}, buffer, advantages)
    return run


def checked(values: Float32s, buffer: RolloutBuffer, name: str) -> Float32s:
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


def recompute_logprobs(run: Run, buffer: RolloutBuffer) -> dict[str, float]:
    """Set the log-probs of the buffer to the trainer's own; returns how far the sampler's were from them."""
    temperature = run.config.rollout.temperature
    sampled = buffer.logprobs
    trained = run.learner.map_policy_tokens(
        buffer, lambda ids_BT, mask_BT: run.learner.module(ids_BT, mask_BT, temperature)[0]
    )
    buffer.set_logprobs(trained)
    cap = run.config.loss.importance_sampling_cap
    if cap is not None:
        buffer.importance = importance_weights(trained, sampled, cap)
    return mismatch(trained, sampled)


def reference_logprobs(run: Run, buffer: RolloutBuffer) -> Float32s:
    """The starting policy's log-prob of each policy token."""
    reference, config = run.reference, run.config
    assert reference is not None
    return map_policy_tokens(
        buffer,
        lambda ids_BT, mask_BT: reference.token_logprobs(ids_BT, mask_BT, config.rollout.temperature)[0],
        reference.pad_id,
        reference.device,
        config.optimizer.token_budget,
        run.processes,
    )


def collect_batch(run: Run, algorithm: Algorithm, step: int) -> RolloutBuffer:
    """One step's experience: as many groups that the algorithm keeps as there are questions a step.

    Groups that it does not keep are replaced by fresh ones, at most `run.MAX_REFILLS` times (DAPO: 10). Each process
    plays its share of the questions; all of them get all the groups.
    """
    config, processes = run.config.rollout, run.processes
    share = processes.share(config.questions_per_step)
    groups, failed, attempts = [], 0, 0
    for refill in range(run.MAX_REFILLS):
        decoder = run.sampler.decoder(len(share) * config.group_size, config.temperature)
        mine = collect(
            decoder,
            run.stepper,
            run.questions(step, refill)[share.start : share.stop],
            group_size=config.group_size,
            seed=(run.config.seed, step, refill),
            step_share=config.step_share,
            first=share.start,
        )
        batch = RolloutBuffer(processes.all_gather_flat(mine.groups), sum(processes.gather(mine.failed)))
        episodes = config.questions_per_step * config.group_size
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
    buffer = RolloutBuffer(
        groups[: config.questions_per_step] or batch.groups, failed, {"step": step, "attempts": attempts}
    )
    if algorithm.needs_information_gain:
        buffer.prefixes = decoder.prefixes()  # of the last batch, if groups were replaced
    buffer.check_trainable()
    return buffer


def update(run: Run, buffer: RolloutBuffer, advantages: Float32s, step: int) -> dict[str, float]:
    """Gradient steps on one buffer."""
    config, loss_config, temperature = run.config.optimizer, run.config.loss, run.config.rollout.temperature
    learner, reference = run.learner, run.reference
    if buffer.importance is not None:
        advantages = advantages * buffer.importance
    rng = np.random.default_rng([run.config.seed, step, 1])
    lr = config.learning_rate(step, run.config.steps)
    totals: dict[str, float] = {}
    norms = []
    for _ in range(config.epochs):
        order = rng.permutation(len(buffer.trajectories)) if config.num_minibatches > 1 else None
        rows = np.arange(len(buffer.trajectories)) if order is None else order
        for part in np.array_split(rows, config.num_minibatches):
            tokens, sequences = int(buffer.policy_tokens[part].sum()), len(part)

            def loss_of(
                batch: MicroBatch, tokens: int = tokens, sequences: int = sequences
            ) -> tuple[Tensor, dict[str, Tensor]]:
                mask = batch.mask_BT
                bonus = loss_config.entropy_coef
                chosen, entropy = learner.module(batch.ids_BT, mask, temperature, entropy_gradient=bonus > 0)
                logprobs_BT = torch.zeros_like(batch.old_logprobs_BT).masked_scatter(mask, chosen)
                weights_BT = token_weights(
                    mask, loss_config.aggregation, horizon=loss_config.horizon, tokens=tokens, sequences=sequences
                )
                result = policy_loss(logprobs_BT, batch.old_logprobs_BT, batch.advantages_BT, mask, loss_config)
                loss = (result.loss_BT * weights_BT).sum()
                parts = {"loss/policy": loss.detach(), "policy/entropy": entropy.detach().sum() / tokens}
                if bonus:
                    loss = loss - bonus * (entropy * weights_BT[mask]).sum()
                if reference is not None and loss_config.kl_coef:
                    with torch.no_grad():
                        before, _ = reference.token_logprobs(batch.ids_BT, mask, temperature)
                    kl = kl_penalty(chosen, before, loss_config.kl_estimator)
                    loss = loss + loss_config.kl_coef * (kl * weights_BT[mask]).sum()
                    parts["policy/kl_reference"] = kl.detach().sum() / tokens
                for name, values_BT in (
                    ("policy/clip_fraction", result.clipped_BT),
                    ("policy/dual_clip_fraction", result.dual_clipped_BT),
                    ("policy/kl_old", result.approx_kl_BT),
                ):
                    parts[name] = values_BT.detach()[mask].sum() / tokens
                return loss, parts

            norm, sums = learner.step(buffer, advantages, part.tolist(), loss_of, lr=lr, what=f"step {step}")
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
            norms.append(norm)
    metrics = {name: total / len(norms) for name, total in totals.items()}
    return {**metrics, "policy/grad_norm": float(np.mean(norms)), "policy/lr": lr}


@contextmanager
def timed(name: str, times: dict[str, float] | None = None) -> Any:
    """Seconds spent in the block, as `time/<name>` in `times` (a new dictionary by default, which is yielded)."""
    times = {} if times is None else times
    start = time.perf_counter()
    yield times
    times[f"time/{name}"] = time.perf_counter() - start
