"""`warm_started`: the configuration of a run with its warm start done, which is made first unless it is there.

Every random draw is derived from the seed and the round, so an interrupted warm start resumes and ends with the same
policy. `folder.py` names the files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from algorithms.common.base.errors import CheckpointError
from algorithms.common.base.hardware import release_memory
from algorithms.common.config import TrainConfig
from algorithms.common.evaluation.scores import QuestionResult, limit_per_dataset, macro_average, score_rows
from algorithms.common.evaluation.tables import print_scores
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.environment import make_questions, make_retriever, make_rules
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.run.checkpoint import save_checkpoint
from algorithms.common.run.evaluator import play_greedy
from algorithms.common.run.metrics_log import MetricsLog
from algorithms.common.run.setup import choose_threads, restore_or_make_learner, start_processes
from algorithms.common.training.supervised import supervised_update
from algorithms.common.warm_start.card import warm_start_card
from algorithms.common.warm_start.episodes import Round, demonstrated, episodes_of_round, questions_in_turn, sampled
from algorithms.common.warm_start.folder import (
    POLICY,
    check_folder,
    is_finished,
    saved_threads,
    settings_of,
    with_trained_policy,
    write_settings,
)
from algorithms.common.warm_start.result import write_result
from igsearch_env.protocols import Invalid
from igsearch_env.stepper import EpisodeStepper
from retrievers import Retriever
from retrievers.lock import LockedError, ProcessLock
from retrievers.random_streams import random_stream

CHECKPOINTS = "checkpoints"
PACE = 10.0  # seconds between two lines of progress


def warm_started(config: TrainConfig, retriever: Retriever | None = None, run_dir: Path | None = None) -> TrainConfig:
    """The configuration with `policy.path` set to the policy of its warm start; unchanged if it has none.

    Every process of a launcher must call it. `run_dir`: the folder of the run, which must be another one. Raises
    `ConfigurationError` if the folder holds a warm start with other settings, or anything else.
    """
    folder = config.warm_start.folder
    if folder is None:
        return config
    check_folder(folder, config, run_dir)
    if not is_finished(folder):
        WarmStart(config, folder, retriever).run()
        release_memory()  # its optimizer and caches, before the run allocates its own
    return with_trained_policy(config)


class WarmStart:
    """A warm start in its folder, new or resumed."""

    def __init__(self, config: TrainConfig, folder: Path, retriever: Retriever | None = None) -> None:
        self.config, self.folder, self.retriever = config, folder, retriever
        self.options = config.warm_start
        self.processes = start_processes(config)
        self.console = Console(quiet=not self.processes.is_main)
        self.lock: ProcessLock | None = None  # on rank 0 only, as the log
        self.log: MetricsLog | None = None
        self.sampler: Sampler | None = None

    def run(self) -> None:
        """Make the warm start, unless another process has just done so: all rounds, the evaluation and the policy."""
        threads_before = torch.get_num_threads()
        try:
            if not self.processes.run_on_main(self._take_folder):
                torch.set_num_threads(self.processes.run_on_main(self._threads))
                self._load()
                self._train()
        finally:
            torch.set_num_threads(threads_before)
            if self.log is not None:
                self.log.close()
            if self.sampler is not None:
                self.sampler.close()
            if self.lock is not None:
                self.lock.release()

    def _take_folder(self) -> bool:
        """Lock the folder, and check it again; returns whether there is nothing left to do."""
        try:
            self.lock = ProcessLock(self.folder)
        except LockedError as error:
            raise CheckpointError(str(error)) from error
        except OSError as error:
            raise CheckpointError(
                f"warm_start.folder={str(self.folder)!r} can't be written to ({error.strerror})"
            ) from error
        if self.lock.notice:
            self.console.print(f"[yellow]{escape(self.lock.notice)}[/yellow]", soft_wrap=True)
        check_folder(self.folder, self.config, None)
        return is_finished(self.folder)

    def _threads(self) -> int:
        """The number of CPU threads: the one asked for, that of the warm start that is resumed, or one for each free
        processor.
        """
        found = self.config.threads or saved_threads(self.folder)
        if found is None:
            found, notice = choose_threads()
            if notice:
                self.console.print(f"[yellow]{notice}[/yellow]", soft_wrap=True)
        return found

    def _load(self) -> None:
        """Load all that a round needs; only then write to the folder."""
        config, processes = self.config, self.processes
        self.train_questions = make_questions(config.env.questions, "train", "env.questions")
        self.dev_questions = limit_per_dataset(
            make_questions(
                config.env.dev_questions or config.env.eval_questions,
                "dev",
                "env.dev_questions" if config.env.dev_questions else "env.eval_questions",
            ),
            config.eval_limit,
        )
        self.policy = policy = Policy.load(config.policy, processes)
        rules = make_rules(config.env, policy.tokenizer)
        retriever = self.retriever
        if retriever is None:
            retriever = make_retriever(config.env.corpus, config.env.retriever, config.env.rerank)
        self.stepper = EpisodeStepper(self.train_questions, retriever, None, rules)
        sharded = config.distributed.sharding != "none"
        rollout = replace(config.rollout, max_staleness=0)  # episodes and updates alternate
        self.sampler = Sampler(policy, rollout, rules.protocol.stop_strings, processes, sharded=sharded)
        optimizer = replace(config.optimizer, lr=self.options.lr, epochs=1, num_minibatches=1)
        # `overwrite` is about the folder of the run.
        settings = replace(config, optimizer=optimizer, overwrite=False)
        try:
            self.learner, self.updates_done = restore_or_make_learner(
                policy, None, settings, processes, self.folder, self.console
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}. This is a warm start: without {self.folder / CHECKPOINTS}, it trains again on the episodes "
                "that it has saved"
            ) from error
        self.sampler.start()
        processes.run_on_main(lambda: write_settings(self.folder, config, torch.get_num_threads()))
        if processes.is_main:
            self.log = MetricsLog(self.folder, self.updates_done + 1)

    def _train(self) -> None:
        """All rounds; then the evaluation and the policy."""
        first = 1
        known: dict[str, float] = {}
        for number in range(1 + self.options.rounds):
            buffer, known = self._episodes(number, trained_since=self.updates_done >= first)
            updates = list(self._updates(number, buffer))
            for place, rows in enumerate(updates):
                if first + place > self.updates_done:
                    last = known | {"warm_start/round": float(number)} if place == len(updates) - 1 else None
                    self._update(buffer, rows, first + place, place, len(updates), last)
            first += len(updates)
        self._finish(known)

    def _episodes(self, number: int, *, trained_since: bool) -> tuple[RolloutBuffer, dict[str, float]]:
        """The episodes to train on in a round."""
        assert self.sampler is not None  # `_load`
        config, options, seed = self.config, self.options, self.config.seed
        questions = questions_in_turn(self.train_questions, seed, number)
        folder = self.folder / f"round-{number}"
        self.processes.run_on_main(lambda: folder.mkdir(exist_ok=True))
        failures, wanted = config.env.max_failure_rate, options.demonstrations
        if number == 0:
            what, successful = "demonstrations", f"successful of {wanted:,} wanted"
            about = Round(folder, wanted, failures, required=True, trained_since=False)  # no policy plays them
            limit = config.rollout.max_new_tokens
            player = demonstrated(self.policy, self.stepper, options, self.processes, limit, seed)
        else:
            what, successful = f"round {number} of {options.rounds}, own episodes", "successful"
            about = Round(folder, None, failures, required=False, trained_since=trained_since)
            player = sampled(self.sampler, self.stepper, options, self.processes, seed, number)
            questions = questions[: options.questions]

        shown = -PACE

        def show(played: int, found: int) -> None:
            nonlocal shown
            last = played == len(questions) or (number == 0 and found >= wanted)
            if last or time.monotonic() >= shown + PACE:
                shown = time.monotonic()
                self.console.print(
                    f"{what}: {found:,} {successful}, {played:,} of {len(questions):,} questions played", soft_wrap=True
                )

        buffer, known = episodes_of_round(about, player, questions, self.processes, show)
        if not buffer.groups:
            self.console.print(f"[yellow]{what}: none was successful, so this round trains nothing[/yellow]")
        return buffer, known

    def _updates(self, number: int, buffer: RolloutBuffer) -> Iterator[list[int]]:
        """The trajectories of each optimizer step of a round."""
        count, size = len(buffer.trajectories), self.options.batch_size
        for epoch in range(self.options.epochs):
            order = random_stream("batches of a warm start", self.config.seed, number, epoch).permutation(count)
            for start in range(0, count, size):
                yield order[start : start + size].tolist()

    def _update(
        self, buffer: RolloutBuffer, rows: list[int], update: int, place: int, total: int, last: dict[str, float] | None
    ) -> None:
        """Update number `update`, at `place` of `total` in its round; `last`: what to log with the last one."""
        assert self.sampler is not None  # `_load`
        self.sampler.sleep()  # until the weights are transferred after the last update of the round
        warmup = max(1, total // 10)
        lr = self.options.lr * min(1.0, (place + 1) / warmup, (total - place) / max(1, total - warmup))
        row = supervised_update(self.learner, buffer, rows, lr=lr, what=f"update {update}")
        release_memory()
        if self.log is not None:
            self.log.write(update, row | (last or {}))
        if place % 10 == 0 or last is not None:
            self.console.print(f"update {place + 1:,} of {total:,}: loss {row['warm_start/loss']:.3f} per token")
        if last is not None or update % self.options.save_every == 0:
            state = {"chat_template": self.config.policy.chat_template.fingerprint}
            save_checkpoint(self.folder / CHECKPOINTS, self.policy, self.learner, None, update, state, 1)
        if last is not None:
            self.sampler.sync_weights()

    def _finish(self, known: dict[str, float]) -> None:
        """Evaluate, and write the policy with its card."""
        assert self.sampler is not None  # `_load`
        self.sampler.sync_weights()
        played = play_greedy(self.sampler, self.stepper, self.dev_questions, self.processes)
        rows = self.processes.all_gather_flat([QuestionResult.of(trajectory) for trajectory in played])
        turns = self.processes.all_gather_flat(
            [not isinstance(turn.action, Invalid) for trajectory in played for turn in trajectory.turns]
        )
        scores = score_rows(rows)
        valid = sum(turns) / max(len(turns), 1)
        print_scores(self.console, "warm start: greedy EM", None, scores)
        self.console.print(
            f"valid turns: {valid:.1%} greedy"
            + (f", {known['warm_start/valid_turns']:.1%} sampled in the last round" if self.options.rounds else "")
        )
        card = warm_start_card(settings_of(self.config), scores, macro_average(scores), valid)
        write_result(self.folder / POLICY, self.policy, self.learner, card)
