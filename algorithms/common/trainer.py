"""The training loop. From `python algorithms/ig_grpo.py` to the gradient: `command.main`, `train`, `policy_update`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.errors import TrainingError
from algorithms.common.base.hardware import release_memory
from algorithms.common.config import TrainConfig
from algorithms.common.report.learning_curve import plot_learning_curve
from algorithms.common.report.run_report import write_reports
from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.run.collector import of_earlier_weights, staleness_metrics
from algorithms.common.run.layout import resumption, run_folder
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic
from algorithms.common.run.time_estimate import estimate_time
from algorithms.common.run.tracked import TrackedQuestions, is_due
from algorithms.common.training.batch_metrics import batch_metrics, throughput
from algorithms.common.training.policy_update import policy_update, recompute_logprobs, reference_logprobs
from algorithms.common.warm_start.warm_start import warm_started
from igsearch_env.errors import IGSearchError
from retrievers.base import Retriever

MAX_REFILLS = 10  # draws of questions per step, at most, if the algorithm does not keep every group


def train(algorithm: Algorithm, config: TrainConfig, retriever: Retriever | None = None) -> Run:
    """Train a policy, after its warm start if it has one; `retriever` replaces the backend of `config.env.corpus`.

    All random draws of a step are derived from (seed, step), so any step can be repeated. Under a launcher every
    process runs this function and holds the same buffer (`distributed/processes.py`).
    """
    temperature = config.rollout.temperature
    make_torch_deterministic(config.seed, config.threads)
    config = warm_started(config, retriever, run_folder(algorithm.name, config))
    with (
        Run(algorithm, config, retriever) as run,
        reports(run),
        closing(run.steps(TrackedQuestions(run, algorithm).after)) as steps,
    ):
        old = config.old_logprobs(exact=run.sampler.exact, needs_reference=algorithm.needs_reference)
        loss = config.loss.after_sampling(exact=run.sampler.exact)
        if config.estimate_time:
            print_estimate(run, algorithm, recomputes=old == "recomputed")
        for step in steps:
            with timed("step") as times:
                with timed("rollout", times):
                    buffer = collect_batch(run, algorithm, step)
                    run.sampler.sleep()
                with timed("weights", times):
                    run.collector.run_ahead()
                metrics: dict[str, float] = {}
                if old == "recomputed":
                    with timed("old_logprobs", times):
                        metrics |= recompute_logprobs(run.learner, buffer, temperature, loss)
                if algorithm.needs_information_gain:
                    with timed("information_gain", times):
                        gain = run.information_gain(step, buffer.prefixes)
                        measure_information_gain(buffer, gain, run.processes)
                buffer.release_prefixes()  # stale after the update, which needs the memory
                if run.reference is not None and algorithm.needs_reference:
                    with timed("reference", times):
                        buffer.reference_logprobs = reference_logprobs(run.learner, run.reference, buffer, temperature)
                if run.critic is not None:
                    with timed("values", times):
                        buffer.values = run.critic.values(buffer)
                advantages = checked(algorithm.advantages(buffer), buffer, f"{algorithm.name}.advantages")
                with timed("update", times):
                    metrics |= policy_update(
                        run.learner,
                        run.reference,
                        buffer,
                        advantages,
                        loss,
                        temperature=temperature,
                        lr=config.optimizer.learning_rate(step, config.steps),
                        step=step,
                        seed=config.seed,
                        on_policy=old == "in update",
                    )
                if run.critic is not None:
                    with timed("critic", times):
                        targets = checked(algorithm.value_targets(buffer), buffer, f"{algorithm.name}.value_targets")
                        metrics |= run.critic.update(buffer, targets, step, config.seed, algorithm.value_mask(buffer))
                with timed("weights", times):
                    run.collector.updated(step)
                release_memory()
            described = batch_metrics(buffer, advantages, max_searches=config.env.max_searches)
            if config.rollout.max_staleness:
                times["time/rollout_hidden"] = run.collector.hidden
                metrics = of_earlier_weights(metrics) | staleness_metrics(buffer, step)
            run.record(step, {**described, **metrics, **times, **throughput(buffer, times)}, buffer, advantages)
        run.finish()
    return run


def print_estimate(run: Run, algorithm: Algorithm, *, recomputes: bool) -> None:
    """Print how long the remaining steps and evaluations will take; `recomputes`: old log-probs, before each update."""
    config = run.config
    left = config.steps - run.steps_done
    if left <= 0:
        return
    validations = config.steps // config.eval_every - run.steps_done // config.eval_every if config.eval_every else 0
    tests = 1 + (run.steps_done == 0 and not config.skip_initial_evaluation)
    estimate = estimate_time(run, needs_information_gain=algorithm.needs_information_gain, recomputes=recomputes)
    questions = validations * len(run.evaluator.dev_questions) + tests * len(run.evaluator.test_questions)
    # Those of the step that is resumed are there already.
    tracked = sum(is_due(step, config) for step in range(run.steps_done + (run.steps_done > 0), config.steps + 1))
    message = estimate.message(left, questions, tracked)
    run.console.print(message, soft_wrap=True, highlight=False)


@contextmanager
def reports(run: Run) -> Iterator[None]:
    """Write the report of a run when its loop ends. Only rank 0 writes.

    After an error or Ctrl-C, also save the last complete step, and add to the error what the same command will do.
    """
    try:
        yield
    except BaseException as error:
        try:
            run.save_unsaved()
        except Exception as failure:  # the first error matters more
            run.console.print(f"step {run.complete.number} is not saved: {failure}", style="yellow", markup=False)
        if run.processes.is_main:
            with suppress(IGSearchError, OSError):  # a run without a step has no report
                write_reports(run.dir)
            error.add_note(resumption(run.dir, overwrite=run.config.overwrite))
        raise
    if not run.processes.is_main or not run.finished:
        return
    plot_learning_curve(run.dir, run.title)
    try:
        pages = " and ".join(path.name for path in write_reports(run.dir))
    except IGSearchError as error:  # the run itself is complete
        pages = f"no report ({error})"
    run.console.print(f"results in {run.dir}/: {pages}; also metrics.jsonl, transcripts/, policy/", soft_wrap=True)


def checked(values: Float32s, buffer: RolloutBuffer, name: str) -> Float32s:
    """`values` as float32. Raises `TrainingError` unless there is one finite value per policy token."""
    expected = (int(buffer.policy_tokens.sum()),)
    if np.shape(values) != expected:
        raise TrainingError(
            f"{name} returned shape {np.shape(values)}: it must be {expected}, one value per policy token; "
            "buffer.broadcast expands one value per trajectory to it"
        )
    if not np.isfinite(values).all():
        raise TrainingError(f"{name} returned {np.asarray(values)[~np.isfinite(values)][0]}: values must be finite")
    return np.asarray(values, dtype=np.float32)


def collect_batch(run: Run, algorithm: Algorithm, step: int) -> RolloutBuffer:
    """Collect the rollouts of one step: `questions_per_step` groups that the algorithm keeps.

    Groups that it does not keep, and those of weights older than `rollout.max_staleness` allows, are replaced by new
    ones of the current weights, in at most `MAX_REFILLS` draws (DAPO: 10). Each process rolls out its share of the
    questions and receives the groups of all processes.
    """
    config, processes = run.config.rollout, run.processes
    groups, failed, attempts, dropped = [], 0, 0, 0
    for refill in range(MAX_REFILLS):
        mine = run.collector.refill(step, refill) if refill else run.collector.batch(step)
        batch = RolloutBuffer(processes.all_gather_flat(mine.groups), sum(processes.gather(mine.failed)))
        episodes = config.questions_per_step * config.group_size
        if batch.failed > run.config.env.max_failure_rate * episodes:
            raise TrainingError(
                f"step {step}: retrieval failed for {batch.failed} of {episodes} episodes, more than "
                f"env.max_failure_rate={run.config.env.max_failure_rate}; fix the retriever and run again to resume"
            )
        fresh = [group for group in batch.groups if run.collector.is_fresh(group, step)]
        groups += [group for group in fresh if algorithm.keep(group)]
        failed += batch.failed
        attempts += sum(len(t.attempts) for t in batch.trajectories)
        dropped += len(batch.groups) - len(fresh)
        if len(groups) >= len(batch.groups):
            break
    buffer = RolloutBuffer(
        groups[: config.questions_per_step] or fresh,
        failed,
        {"step": step, "attempts": attempts, "dropped_groups": dropped},
    )
    if algorithm.needs_information_gain:
        buffer.prefixes = mine.prefixes  # only those of the last batch, if groups were replaced
    buffer.check_trainable()
    return buffer


@contextmanager
def timed(name: str, times: dict[str, float] | None = None) -> Any:
    """Add the seconds spent in the block to `time/<name>` in `times` (by default a new dictionary); yields it."""
    times = {} if times is None else times
    start = time.perf_counter()
    yield times
    times[f"time/{name}"] = times.get(f"time/{name}", 0.0) + time.perf_counter() - start
