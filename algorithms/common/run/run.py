"""`Run`: one training run on disk and what it trains with: policy, environment, questions, logs, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.hardware import hardware
from algorithms.common.config import TrainConfig, as_dict
from algorithms.common.distributed.processes import Processes
from algorithms.common.evaluation.fingerprint import Fingerprint, make_fingerprint
from algorithms.common.evaluation.results import read_tests, write_result
from algorithms.common.evaluation.scores import QuestionResult, Score, limit_per_dataset, macro_average, score_rows
from algorithms.common.evaluation.tables import print_scores
from algorithms.common.memory.plan import plan_memory, precision_warning
from algorithms.common.model.kv_cache import CachedPrefixes
from algorithms.common.model.policy import BasePolicy, Policy, PolicyModule
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.report.learning_curve import plot_learning_curve
from algorithms.common.report.run_report import write_reports
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.environment import make_questions, make_retriever, make_rules
from algorithms.common.rollout.sampler import EVAL_SLOTS, Sampler
from algorithms.common.run.checkpoint import checkpoints, load_optimizers, load_weights, save_checkpoint, write_policy
from algorithms.common.run.collapse import CollapseWatch
from algorithms.common.run.folder import open_folder
from algorithms.common.run.metrics_log import MetricsLog, read_metrics, score_metrics, write_transcripts
from algorithms.common.run.progress import TrainingProgress
from algorithms.common.run.recorded_trajectories import record_trajectories
from algorithms.common.run.trackers import open_trackers
from algorithms.common.training.critic import Critic
from algorithms.common.training.learner import Learner
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.information_gain import InformationGain
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from retrievers import Retriever


class Run:
    """Opens or resumes a run folder; a context manager that closes its logs. One in each process of a run."""

    MAX_REFILLS = 10

    def __init__(self, algorithm: Algorithm, config: TrainConfig, retriever: Retriever | None = None) -> None:
        self.name = name = algorithm.name
        self.config = config
        self.processes = processes = Processes.start(config.distributed, config.policy.device)
        if config.rollout.questions_per_step < processes.size:
            raise ConfigurationError(
                f"rollout.questions_per_step={config.rollout.questions_per_step} for {processes.size} "
                "processes: each plays whole groups, so give at least one question for each, or start fewer"
            )
        self.console = Console(quiet=not processes.is_main)
        self.dir = config.run_dir or Path("runs") / f"{name}-seed{config.seed}"
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it matrix products of a GPU may differ
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # it is all written
        processes.run_on_main(lambda: open_folder(self.dir, name, config))
        needs_reference = config.loss.kl_coef > 0 or algorithm.needs_reference
        self._print_plan(needs_reference, algorithm.critic is not None)

        self.policy = policy = Policy.load(config.policy)
        sharded = config.distributed.sharding != "none"
        self.reference: Policy | BasePolicy | None = None
        if needs_reference:
            # A sharded model can't be passed through by the frozen weights alone.
            alone = policy.adapter is not None and not sharded
            lower = DTYPES[config.rollout.dtype] if config.rollout.dtype else policy.model.dtype
            self.reference = BasePolicy(policy) if alone else policy.replica(lower, policy.compute_dtype)
        self.critic = None
        if algorithm.critic:
            self.critic = Critic(policy, algorithm.critic, config.optimizer, processes, config.distributed)
        self.rules = make_rules(config.env, policy.tokenizer, config.env.outcome_reward)
        self.protocol = self.rules.protocol
        self.sampler = Sampler(policy, config.rollout, self.protocol.stop_strings, processes, sharded=sharded)
        if retriever is None:
            retriever = make_retriever(config.env.corpus, config.env.retriever, config.env.rerank)
        self.retriever = retriever
        self.train_questions = make_questions(config.env.questions, "train")
        self.dev_questions = make_questions(config.env.eval_questions, "dev")
        self.test_questions = make_questions(config.env.eval_questions, "test")
        self.stepper = self.make_engine()

        saved = processes.run_on_main(lambda: checkpoints(self.dir / "checkpoints")[-1:])
        self.steps_done = load_weights(saved[0], policy) if saved else 0
        self.learner = Learner(
            PolicyModule(policy),
            config.optimizer,
            processes,
            config.distributed,
            lr=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            pad_id=policy.tokenizer.pad_id,
            device=policy.device,
            dtype=policy.compute_dtype,
        )
        if saved:
            load_optimizers(saved[0], self.learner, self.critic.learner if self.critic else None)
            self.console.print(f"resuming {self.dir} after step {self.steps_done}")
        self.sampler.start()
        self.log: MetricsLog | None = None
        self.watch: CollapseWatch | None = None
        rows: list[dict[str, Any]] = []
        if processes.is_main:
            trackers = open_trackers(
                config.report_to,
                project=config.project,
                run_dir=self.dir,
                config={"algorithm": name, **as_dict(config)},
                run_name=self.dir.name,
            )
            # Record 0 is the evaluation before training; records 1..n are the steps, so `done` steps end at `done`.
            self.log = MetricsLog(self.dir, self.steps_done + 1 if saved else 0, trackers)
            rows = read_metrics(self.dir / "metrics.jsonl")
            self.watch = CollapseWatch.resumed(rows)
        self.progress = TrainingProgress(self.console, name, self.dir, config.steps, self.steps_done, rows)
        self.best_dev_em = processes.run_on_main(
            lambda: max((row["dev/em"] for row in rows if "dev/em" in row), default=-1.0)
        )

    def _print_plan(self, needs_reference: bool, needs_critic: bool) -> None:
        """What the run will take of the memory."""
        plan = plan_memory(
            self.config,
            needs_reference=needs_reference,
            needs_critic=needs_critic,
            world_size=self.processes.size,
            device=self.processes.device,
        )
        plan.render(self.console)
        warning = precision_warning(self.config)
        if warning:
            self.console.print(f"[yellow]{escape(warning)}[/yellow]")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()  # an error in the loop leaves `steps` suspended, and the panel with it
        failed = True
        try:
            if kind is None:
                self.finish()  # first: a tracker whose network is gone takes its time to close
                failed = False
            elif self.processes.is_main:
                with suppress(IGSearchError, OSError):  # a run without a step has none; what ended it matters more
                    write_reports(self.dir)
        finally:
            self.close(failed=failed)
            if not failed:  # NCCL waits here for the others, who may be waiting for what has failed
                self.processes.close()

    def close(self, *, failed: bool = False) -> None:
        """Close logs and engine."""
        if self.log is not None:
            self.log.close(failed=failed)
        self.sampler.close()

    # ---------------------------------------------------------------- the loop

    def steps(self) -> Iterator[int]:
        """The steps still to do, from 1, with their progress shown, evaluations and checkpoints between them."""
        config = self.config
        with self.progress:
            if self.steps_done == 0:
                scores = self.evaluate(0)
                self.progress.evaluated(0, "test", macro_average(scores))
            for step in range(self.steps_done + 1, config.steps + 1):
                yield step
                if config.eval_every and step % config.eval_every == 0:
                    self.progress.evaluated(step, "dev", self.validate(step))
                if step == config.steps:
                    scores = self.evaluate(step)
                    self.progress.evaluated(step, "test", macro_average(scores))
                if step == config.steps or step % config.save_every == 0:
                    self.save(step)

    def record(self, step: int, metrics: dict[str, float], buffer: RolloutBuffer, advantages: Float32s) -> None:
        """Log a training step, say what looks like a collapse, and keep some trajectories to look at."""
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
            {"algorithm": self.name},
            self.config.save_total_limit,
        )

    def validate(self, step: int) -> float:
        """EM on some dev questions, logged; the policy is kept as RUN_DIR/best if it did better than ever."""
        questions = limit_per_dataset(self.dev_questions, self.config.eval_limit)
        self.progress.evaluating("dev", len(questions))
        scores = score_rows(self.play(questions))
        score = macro_average(scores)
        if score > self.best_dev_em:
            self.best_dev_em = score
            write_policy(self.dir / "best", self.policy, self.learner, {"step": step, "dev/em": score})
        if self.log is not None:
            # The record of the last step is that of the test questions.
            metrics = score_metrics(scores) if step < self.config.steps else {}
            self.log.write(step, {**metrics, "dev/em": score})
        return score

    def evaluate(self, step: int) -> dict[str, Score]:
        """Greedy answers to the test questions, logged and kept."""
        self.progress.evaluating("test", len(self.test_questions))
        rows = self.play(self.test_questions)
        scores = score_rows(rows)
        if self.log is not None:
            self.log.write(step, score_metrics(scores))
            path = self.dir / ("test_before.json" if step == 0 else "test_after.json")
            write_result(
                path,
                rows,
                scores,
                algorithm=self.name,
                seed=self.config.seed,
                step=step,
                hardware=hardware(),
                fingerprint=self.fingerprint(step),
            )
        return scores

    def fingerprint(self, step: int) -> Fingerprint:
        """What decides the numbers of an evaluation after `step`; a trained policy is named, not hashed."""
        policy, rollout = self.config.policy, self.config.rollout
        found = make_fingerprint(
            questions=self.test_questions,
            retriever=self.retriever.fingerprint(),
            policy=policy.path,
            rules=self.rules,
            chat=policy.chat,
            max_new_tokens=rollout.max_new_tokens,
            context_length=policy.context_length,
            dtype=rollout.dtype or policy.compute_dtype or policy.dtype,
        )
        if step:
            found["model"]["trained"] = f"{self.dir.name}, {step} steps"
        return found

    def play(self, questions: Sequence[Question]) -> list[QuestionResult]:
        """One greedy episode per question, each process its share."""
        share = self.processes.share(len(questions))
        decoder = self.sampler.decoder(EVAL_SLOTS, temperature=0.0)
        played = play(decoder, self.stepper, questions[share.start : share.stop], seed=(0,), first=share.start)
        return self.processes.all_gather_flat([QuestionResult.of(trajectory) for trajectory in played])

    def finish(self) -> None:
        """The final table, the learning curve and the trained policy in RUN_DIR/policy."""
        if not self.processes.run_on_main(lambda: (self.dir / "test_after.json").is_file()):
            return
        write_policy(self.dir / "policy", self.policy, self.learner)
        if not self.processes.is_main:
            return
        before, after = read_tests(self.dir)
        assert after is not None  # as was just asked
        title = f"{self.name}, seed {self.config.seed}"
        print_scores(self.console, f"{title}: greedy test EM", before.scores if before else None, after.scores)
        failed = sum(row.get("retrieval_failures", 0) for row in read_metrics(self.dir / "metrics.jsonl"))
        if failed:
            self.console.print(f"retrieval failed for {failed:.0f} episodes: left out of loss and group statistics")
        plot_learning_curve(self.dir, title)
        try:
            pages = " and ".join(path.name for path in write_reports(self.dir))
        except IGSearchError as error:  # the run is done all the same
            pages = f"no report ({error})"
        self.console.print(
            f"results in {self.dir}/: look at {pages}; metrics.jsonl, transcripts/, policy/", soft_wrap=True
        )

    # ---------------------------------------------------------------- what a step needs

    def questions(self, step: int, refill: int = 0) -> list[Question]:
        """The questions of a step: without repetition within a pass over the training questions."""
        count, total = self.config.rollout.questions_per_step, len(self.train_questions)
        if refill:
            rng = np.random.default_rng([self.config.seed, step, refill, 2])
            return [self.train_questions[i] for i in rng.choice(total, count, replace=total < count)]
        places = range((step - 1) * count, step * count)
        epochs = {place // total for place in places}
        orders = {e: np.random.default_rng([self.config.seed, e, 3]).permutation(total) for e in epochs}
        return [self.train_questions[orders[place // total][place % total]] for place in places]

    def information_gain(self, step: int, prefixes: CachedPrefixes | None = None) -> InformationGain:
        """The measure of a step, by the policy as it is now; `prefixes` is what it has read already."""
        scorer = self.sampler.scorer(prefixes)
        seed = self.config.seed * 1_000_003 + step
        return InformationGain(self.config.information_gain, scorer, self.protocol, self.retriever, seed)

    def make_engine(self) -> EpisodeStepper:
        """The environment of rollouts: it pays outcomes only, since gains are measured on whole buffers."""
        return EpisodeStepper(self.train_questions, self.retriever, None, self.rules)
