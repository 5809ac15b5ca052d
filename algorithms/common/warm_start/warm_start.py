"""`warm_started`: the configuration of a run with its warm start done, which is made first unless it is there.

    FOLDER/warm_start.yaml   the settings          round-0/   the demonstrations     checkpoints/
           metrics.jsonl     one row per update    round-1/   the first own episodes policy/, README.md: the result

Every random draw is derived from the seed and the round, so an interrupted warm start resumes and ends with the same
policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from algorithms.common.base.files import atomic_write
from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig, as_dict
from algorithms.common.evaluation.scores import QuestionResult, Score, limit_per_dataset, macro_average, score_rows
from algorithms.common.evaluation.tables import print_scores
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import load_model
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.environment import make_questions, make_retriever, make_rules
from algorithms.common.rollout.sampler import EVAL_SLOTS, Sampler
from algorithms.common.run.checkpoint import CheckpointError, save_checkpoint, write_policy
from algorithms.common.run.metrics_log import MetricsLog
from algorithms.common.run.setup import restore_or_make_learner, start_processes
from algorithms.common.training.supervised import supervised_update
from algorithms.common.warm_start.card import warm_start_card
from algorithms.common.warm_start.episodes import demonstrated, episodes_of_round, questions_in_turn, sampled
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Invalid
from igsearch_env.stepper import EpisodeStepper
from retrievers import Retriever
from retrievers.lock import LockedError, ProcessLock
from retrievers.random_streams import random_stream
from retrievers.reading import FileError, read_yaml

SETTINGS, POLICY = "warm_start.yaml", "policy"
# Sections of the configuration that a warm start depends on; of `env`, evaluation and reward do not matter.
SECTIONS = ("policy", "env", "warm_start")
IRRELEVANT = frozenset({"policy.device", "policy.attn_implementation", "policy.gradient_checkpointing"}) | {
    f"env.{name}" for name in ("eval_questions", "dev_questions", "outcome_reward", "max_failure_rate")
}
FORMAT = ("env.protocol", "env.prompt", "policy.chat")  # a policy knows one format of episodes


def warm_started(config: TrainConfig, retriever: Retriever | None = None) -> TrainConfig:
    """The configuration with `policy.path` set to the policy of its warm start; unchanged if it has none.

    Every process of a launcher must call it. Raises `ConfigurationError` if the folder holds a warm start with other
    settings.
    """
    folder = config.warm_start.folder
    if folder is None:
        return config
    if not (folder / POLICY / "config.json").is_file():
        WarmStart(config, folder, retriever).run()
    _check_settings(folder, config, FORMAT)
    return replace(config, policy=replace(config.policy, path=str(folder / POLICY)))


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What a warm start depends on, by dotted names."""
    everything = as_dict(config)
    found = flat({name: everything[name] for name in SECTIONS})
    found |= {"seed": config.seed, "rollout.max_new_tokens": config.rollout.max_new_tokens}
    return {name: value for name, value in found.items() if name not in IRRELEVANT and name != "warm_start.folder"}


def _check_settings(folder: Path, config: TrainConfig, names: tuple[str, ...] | None = None) -> None:
    """Raise `ConfigurationError` if a folder holds a warm start with other settings (of `names`; None: of all)."""
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(folder.glob("[!.]*.jsonl")):
            raise ConfigurationError(f"warm_start.folder={str(folder)!r} holds something else; give another folder")
        return
    try:
        before = read_yaml(path)
    except FileError as error:
        raise ConfigurationError(f"{error}; restore it, or give another warm_start.folder") from error
    now = _settings(config)
    for name in names or now:
        if not isinstance(before, dict) or before.get(name) != now[name]:
            found = before.get(name) if isinstance(before, dict) else None
            raise ConfigurationError(
                f"{folder} holds a warm start with {name}={found!r}, this command has {now[name]!r}; "
                "give another --warm-start.folder, or delete that one"
            )


class WarmStart:
    """A warm start in its folder, new or resumed."""

    def __init__(self, config: TrainConfig, folder: Path, retriever: Retriever | None = None) -> None:
        self.config, self.folder = config, folder
        self.options = options = config.warm_start
        self.processes = processes = start_processes(config)
        self.console = Console(quiet=not processes.is_main)
        processes.run_on_main(lambda: _check_settings(folder, config))
        self.train_questions = make_questions(config.env.questions, "train")
        self.dev_questions = limit_per_dataset(
            make_questions(config.env.dev_questions or config.env.eval_questions, "dev"), config.eval_limit
        )
        self.policy = policy = Policy.load(config.policy)
        rules = make_rules(config.env, policy.tokenizer)
        if retriever is None:
            retriever = make_retriever(config.env.corpus, config.env.retriever, config.env.rerank)
        self.stepper = EpisodeStepper(self.train_questions, retriever, None, rules)
        sharded = config.distributed.sharding != "none"
        self.sampler = Sampler(policy, config.rollout, rules.protocol.stop_strings, processes, sharded=sharded)
        optimizer = replace(config.optimizer, lr=options.lr, epochs=1, num_minibatches=1)
        self.learner, self.updates_done = restore_or_make_learner(
            policy, None, replace(config, optimizer=optimizer), processes, folder, self.console
        )

    def run(self) -> None:
        """Make the warm start: all rounds, then the evaluation and the policy."""
        lock = self.processes.run_on_main(self._begin)
        log = MetricsLog(self.folder, self.updates_done + 1) if self.processes.is_main else None
        try:
            self.sampler.start()
            first = 1
            known: dict[str, float] = {}
            for number in range(1 + self.options.rounds):
                buffer, known = self._episodes(number)
                updates = list(self._updates(number, buffer))
                for place, rows in enumerate(updates):
                    update = first + place
                    if update > self.updates_done:
                        last = place == len(updates) - 1
                        row = self._update(buffer, rows, update, place, len(updates), last=last)
                        if log is not None:
                            log.write(update, row | ({"warm_start/round": number, **known} if last else {}))
                first += len(updates)
            self._finish(known)
        finally:
            if log is not None:
                log.close()
            self.sampler.close()
            if lock is not None:
                lock.release()

    def _begin(self) -> ProcessLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = ProcessLock(self.folder)
        except LockedError as error:
            raise CheckpointError(str(error)) from error
        with atomic_write(self.folder / SETTINGS, durable=True) as partial:
            partial.write_text(yaml.safe_dump(_settings(self.config), sort_keys=False), encoding="utf-8")
        return lock

    def _episodes(self, number: int) -> tuple[RolloutBuffer, dict[str, float]]:
        """The episodes to train on in a round."""
        config, options, seed = self.config, self.options, self.config.seed
        questions = questions_in_turn(self.train_questions, seed, number)
        folder = self.folder / f"round-{number}"
        self.processes.run_on_main(lambda: folder.mkdir(exist_ok=True))
        what = "demonstrations" if number == 0 else f"round {number}: own episodes"
        if number == 0:
            player = demonstrated(self.policy, self.stepper, options, config.rollout.max_new_tokens, seed)
            wanted = options.demonstrations
        else:
            player = sampled(self.sampler, self.stepper, options, self.processes, seed, number)
            questions, wanted = questions[: options.questions], None

        def show(played: int, found: int) -> None:
            self.console.print(f"{what}: {found:,} successful, {played:,} of {len(questions):,} questions played")

        return episodes_of_round(folder, player, questions, self.processes, wanted=wanted, progress=show)

    def _updates(self, number: int, buffer: RolloutBuffer) -> Iterator[list[int]]:
        """The trajectories of each optimizer step of a round."""
        count, size = len(buffer.trajectories), self.options.batch_size
        for epoch in range(self.options.epochs):
            order = random_stream("batches of a warm start", self.config.seed, number, epoch).permutation(count)
            for start in range(0, count, size):
                yield order[start : start + size].tolist()

    def _update(
        self, buffer: RolloutBuffer, rows: list[int], update: int, place: int, total: int, *, last: bool
    ) -> dict[str, float]:
        warmup = max(1, total // 10)
        lr = self.options.lr * min(1.0, (place + 1) / warmup, (total - place) / max(1, total - warmup))
        row = supervised_update(self.learner, buffer, rows, lr=lr, what=f"update {update}")
        if place % 10 == 0 or last:
            self.console.print(f"update {place + 1} of {total}: loss {row['warm_start/loss']:.3f} per token")
        if last or update % self.options.save_every == 0:
            state = {"chat_template": self.config.policy.chat_template.fingerprint}
            save_checkpoint(self.folder / "checkpoints", self.policy, self.learner, None, update, state, 1)
        if last:
            self.sampler.sync_weights()
        return row

    def _finish(self, known: dict[str, float]) -> None:
        """Evaluate, and write the policy with its card."""
        self.sampler.sync_weights()
        decoder = self.sampler.decoder(EVAL_SLOTS, temperature=0.0)
        share = self.processes.share(len(self.dev_questions))
        played = play(decoder, self.stepper, self.dev_questions[share.start : share.stop], seed=(0,), first=share.start)
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
        self._write(scores, valid)

    def _write(self, scores: dict[str, Score], valid: float) -> None:
        if self.policy.adapter is not None:  # merged: a run may add an adapter of its own
            write_policy(self.folder / "adapter", self.policy, self.learner)

            def merge() -> None:
                merged = load_model(str(self.folder / "adapter"), dtype=self.policy.model.dtype)
                merged.save_pretrained(self.folder / POLICY)
                self.policy.tokenizer.hf_tokenizer.save_pretrained(self.folder / POLICY)

            self.processes.run_on_main(merge)
        else:
            write_policy(self.folder / POLICY, self.policy, self.learner)
        if self.processes.is_main:
            card = warm_start_card(_settings(self.config), scores, macro_average(scores), valid)
            with atomic_write(self.folder / POLICY / "README.md") as partial:
                partial.write_text(card, encoding="utf-8")
