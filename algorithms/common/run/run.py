"""`Run`: a training run with its folder, policy, environment, questions, logs and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from rich.console import Console

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, as_dict
from algorithms.common.memory.plan import check_model
from algorithms.common.model.kv_cache import CachedPrefixes
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.environment import make_retriever, make_rules
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.run.checkpoint import save_checkpoint, write_policy
from algorithms.common.run.collapse import CollapseWatch
from algorithms.common.run.collector import Collector
from algorithms.common.run.complete_step import CompleteStep
from algorithms.common.run.evaluations import Evaluations
from algorithms.common.run.evaluator import Evaluator
from algorithms.common.run.folder import begin_folder, lock_folder
from algorithms.common.run.layout import run_folder, saved_step
from algorithms.common.run.metrics_log import MetricsLog, read_metrics, write_transcripts
from algorithms.common.run.outcome import print_outcome
from algorithms.common.run.progress import TrainingProgress
from algorithms.common.run.recorded_trajectories import record_trajectories
from algorithms.common.run.remaining_time import Workload
from algorithms.common.run.setup import (
    information_gain_seed,
    make_critic,
    make_reference,
    print_plan,
    questions_of_run,
    restore_or_make_learner,
    start_processes,
    threads_of_run,
)
from algorithms.common.run.trackers import open_trackers
from igsearch_env.gain_sources import check_source
from igsearch_env.information_gain import InformationGain
from igsearch_env.stepper import EpisodeStepper
from retrievers import Retriever
from retrievers.lock import ProcessLock


class Run:
    """A training run in its folder, new or resumed from the latest checkpoint. Each process has its own instance.

    The constructor loads everything that a step needs. As a context manager, a run also opens its logs and trackers,
    which `steps` and `record` write to, and closes them at the end.
    """

    def __init__(self, algorithm: Algorithm, config: TrainConfig, retriever: Retriever | None = None) -> None:
        self.name = algorithm.name
        self.config = config
        self.processes = processes = start_processes(config)
        self.console = Console(quiet=not processes.is_main)
        self.dir = run_folder(self.name, config)
        self.lock: ProcessLock | None = None  # on rank 0 only
        try:
            threads = processes.run_on_main(self._take_folder)
            if threads is not None:  # else an earlier version began the run, with torch's default
                torch.set_num_threads(threads)
                self.config = replace(config, threads=threads)
            self._load(algorithm, retriever)
        except BaseException:
            self._release_folder()
            raise
        self.log: MetricsLog | None = None  # opened by `__enter__`, on rank 0 only
        self.watch: CollapseWatch | None = None

    def _take_folder(self) -> int | None:
        """Lock the folder and check what it holds; nothing in it is changed before everything is loaded.

        Returns the number of threads of the run, new or resumed.
        """
        self.lock = lock_folder(self.dir, self.console)
        return threads_of_run(self.dir, self.name, self.config, self.console)

    def _release_folder(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _load(self, algorithm: Algorithm, retriever: Retriever | None) -> None:
        """Load everything that a step needs; then begin the folder, or resume it from the latest checkpoint."""
        config, processes = self.config, self.processes
        needs_reference = config.loss.kl_coef > 0 or algorithm.needs_reference
        self.train_questions, self.dev_questions, self.test_questions = questions_of_run(config)
        check_model(config, processes.device)  # before a corpus is loaded, which may take minutes
        if retriever is None:
            retriever = make_retriever(config.env.corpus, config.env.retriever, config.env.rerank)
        self.retriever = retriever
        if algorithm.needs_information_gain:
            check_source(config.information_gain.source, self.train_questions, retriever)
        print_plan(
            self.console,
            config,
            processes,
            needs_reference=needs_reference,
            needs_critic=algorithm.critic is not None,
            eval_questions=len(self.test_questions),
        )

        self.policy = policy = Policy.load(config.policy, processes)
        self.reference = make_reference(policy, config) if needs_reference else None
        self.critic = make_critic(policy, algorithm.critic, config, processes) if algorithm.critic else None
        self.rules = make_rules(config.env, policy.tokenizer, config.env.outcome_reward)
        self.protocol = self.rules.protocol
        sharded = config.distributed.sharding != "none"
        self.sampler = Sampler(policy, config.rollout, self.protocol.stop_strings, processes, sharded=sharded)
        # Rollouts compute outcome rewards only: information gain is measured on whole buffers.
        self.stepper = EpisodeStepper(self.train_questions, retriever, None, self.rules)
        self.evaluator = Evaluator(
            self.name,
            config,
            self.dir,
            sampler=self.sampler,
            stepper=self.stepper,
            processes=processes,
            dev_questions=self.dev_questions,
            test_questions=self.test_questions,
        )
        self.learner, self.steps_done = restore_or_make_learner(
            policy, self.critic, config, processes, self.dir, self.console
        )
        self.complete = CompleteStep(self.steps_done, [self.learner, *([self.critic.learner] if self.critic else [])])
        self.sampler.start(self.steps_done)
        self.collector = Collector(config, self.sampler, self.stepper, self.train_questions, processes, self.steps_done)
        processes.run_on_main(lambda: begin_folder(self.dir, self.name, config))

    # ---------------------------------------------------------------- start and end

    def __enter__(self) -> Run:
        """Open the trackers and the metrics log, which is truncated to the step of the checkpoint."""
        try:
            self._open_logs()
        except BaseException:
            self.close(failed=True)
            raise
        return self

    def _open_logs(self) -> None:
        rows: list[dict[str, Any]] = []
        if self.processes.is_main:
            trackers = open_trackers(
                self.config.report_to,
                project=self.config.project,
                run_dir=self.dir,
                config={"algorithm": self.name, **as_dict(self.config)},
                run_name=self.dir.name,
            )
            # Record 0 is the evaluation before training; records 1..n are the steps, so `n` steps done end at `n`.
            self.log = MetricsLog(self.dir, self.steps_done + 1 if self.steps_done else 0, trackers)
            rows = read_metrics(self.dir / "metrics.jsonl")
            self.watch = CollapseWatch.resumed(rows)
        dev, test = len(self.dev_questions), len(self.test_questions)
        work = Workload.of_process(self.config, self.processes, dev_questions=dev, test_questions=test)
        self.progress = TrainingProgress(self.console, self.name, self.dir, work, self.steps_done, rows)
        self.evaluations = Evaluations(
            self.evaluator,
            self.config,
            self.dir,
            policy=self.policy,
            learner=self.learner,
            collector=self.collector,
            progress=self.progress,
            log=self.log,
            rows=rows,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()  # if `steps` is suspended: the panel is still open then
        failed = kind is not None
        self.close(failed=failed)
        if not failed:  # NCCL waits here for the other processes, which may be waiting for the one that failed
            self.processes.close()

    def close(self, *, failed: bool = False) -> None:
        """Stop collecting rollouts; close logs, trackers and engine, also if one of them fails or is interrupted."""
        with ExitStack() as last_first:
            last_first.callback(self._release_folder)
            last_first.callback(self.sampler.close)
            if self.log is not None:
                last_first.callback(self.log.close, failed=failed)
            last_first.callback(self.collector.close)

    # ---------------------------------------------------------------- the loop

    def steps(self, also: Callable[[int], None]) -> Generator[int]:
        """Yield the remaining step numbers (from 1); shows progress, evaluates and writes checkpoints between them.

        `also` is called with the evaluations: with the number of steps done at the start, and after each step.
        """
        config = self.config
        with self.progress:
            if self.steps_done:
                self.evaluations.after(self.steps_done)  # what an interruption prevented
            elif not config.skip_initial_evaluation:
                self.evaluations.before()
            also(self.steps_done)
            for step in range(self.steps_done + 1, config.steps + 1):
                yield step
                self.complete.reached(step)
                self.evaluations.after(step)
                also(step)
                if step == config.steps or step % config.save_every == 0:
                    self.save(step)

    def record(self, step: int, metrics: dict[str, float], buffer: RolloutBuffer, advantages: Float32s) -> None:
        """Log a training step, warn about symptoms of a collapse, and save some trajectories for inspection."""
        if self.log is None or self.watch is None:
            return
        self.log.write(step, metrics)
        self.progress.step(step, metrics)
        for message in self.watch.observe(step, metrics):
            self.progress.warn(message)
        steps, every = self.config.steps, self.config.eval_every
        if step in (1, (1 + steps) // 2, steps) or (every and step % every == 0):
            name = f"step-{step:06d}"
            write_transcripts(self.dir / "transcripts" / f"{name}.txt", buffer.trajectories)
            path = self.dir / "trajectories" / f"{name}.json.gz"
            record_trajectories(path, buffer, {self.name: advantages}, self.policy.tokenizer)

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            self.dir / "checkpoints",
            self.policy,
            self.learner,
            self.critic.learner if self.critic else None,
            step,
            {"algorithm": self.name, "chat_template": self.config.policy.chat_template.fingerprint},
            self.config.save_total_limit,
        )

    def save_unsaved(self) -> None:
        """Write a checkpoint of the last complete step, if it has none and the weights are still those after it.

        For the end of a run by an error or a signal. One of several processes writes nothing: a checkpoint takes all of
        them, and the others may be anywhere.
        """
        step = self.complete.number
        if self.processes.size == 1 and self.complete.is_current and step > saved_step(self.dir):
            self.console.print(f"saving step {step} (Ctrl-C: end without it)", highlight=False)
            self.save(step)

    def information_gain(self, step: int, prefixes: CachedPrefixes | None = None) -> InformationGain:
        """The information gain of a step under the current policy; `prefixes`: KV cache of the rollout, if reusable."""
        scorer = self.sampler.scorer(prefixes)
        seed = information_gain_seed(self.config.seed, step)
        return InformationGain(self.config.information_gain, scorer, self.protocol, self.retriever, seed)

    # ---------------------------------------------------------------- the result

    @property
    def title(self) -> str:
        """Name of the run in tables and figures."""
        return f"{self.name}, seed {self.config.seed}"

    @property
    def finished(self) -> bool:
        """Whether the last step has been evaluated; valid on rank 0."""
        return (self.dir / "test_after.json").is_file()

    def finish(self) -> None:
        """Write the trained policy to RUN_DIR/policy and print the final table, if the last step has been evaluated."""
        if not self.processes.run_on_main(lambda: self.finished):
            return
        write_policy(self.dir / "policy", self.policy, self.learner)
        if self.processes.is_main:
            print_outcome(self.console, self.dir, self.title)
