"""Rollouts of this project for another trainer: episodes, their information gain, and advantages per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.errors import TrainingError
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import BasePolicy, Policy
from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.environment import make_retriever, make_rules
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.rollout.training_rows import TrainingRow, training_rows
from algorithms.common.run.setup import information_gain_seed, make_reference
from algorithms.common.trainer import checked
from algorithms.common.training.micro_batching import map_policy_tokens
from igsearch_env.gain_sources import check_source
from igsearch_env.information_gain import InformationGain
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Group, Trajectory
from retrievers import Retriever


@dataclass(frozen=True)
class Rollout:
    """The episodes of all processes, with the advantages of an algorithm.

    `rows` has one entry per episode of this process, in the order of its questions; None where retrieval failed.
    """

    buffer: RolloutBuffer
    advantages: Float32s
    trajectories: list[Trajectory]
    """The episodes of this process."""
    rows: list[TrainingRow | None]


class Rollouts:
    """Plays questions with a policy that another trainer trains, and estimates advantages.

    Args:
        policy: the model that is trained; its weights at the time of a call play.
        algorithm: estimates the advantages.
        config: of the environment, the rollouts and the information gain.
        questions: all of them.
        retriever: replaces the search engine of `config.env`.
        processes: of the trainer; each plays its own questions, and all hold the whole buffer.

    Raises `ConfigurationError` if the policy can't write the markers of the protocol.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        config: TrainConfig,
        questions: Sequence[Question],
        retriever: Retriever | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.policy, self.algorithm, self.config = policy, algorithm, config
        self.processes = processes or Processes()
        self.rules = make_rules(config.env, policy.tokenizer, config.env.outcome_reward)
        self.retriever = retriever or make_retriever(config.env.corpus, config.env.retriever, config.env.rerank)
        self.stepper = EpisodeStepper(questions, self.retriever, None, self.rules)
        if algorithm.needs_information_gain:
            check_source(config.information_gain.source, questions, self.retriever)
        self.reference: Policy | BasePolicy | None = None
        if algorithm.needs_reference:
            self.reference = make_reference(policy, config)
        self.sampler = Sampler(policy, config.rollout, self.rules.protocol.stop_strings, self.processes)
        self.sampler.start()

    def collect(
        self, questions: Sequence[Question], group_size: int, *, seed: Sequence[int], step: int, train: bool = True
    ) -> Rollout:
        """Play one episode for each of the questions of this process, in which each is repeated for its group.

        Args:
            questions: of this process; those of all processes, in order of rank, are groups of `group_size` equal ones.
            seed: a seed and any counters; with the place of an episode in the batch, it determines all draws.
            step: of the run; with the seed it determines the random evidence of information gain.
            train: whether the episodes are for training, so that groups must be ones that the algorithm keeps.

        Raises `TrainingError` if retrieval fails in more than `env.max_failure_rate` of the episodes.
        """
        config, processes = self.config, self.processes
        self.sampler.sync_weights()
        decoder = self.sampler.decoder(len(questions), config.rollout.temperature)
        mine = play(decoder, self.stepper, questions, seed=seed, first=processes.rank * len(questions))
        self.sampler.sleep()  # until the next `sync_weights`: the update needs the memory
        trajectories = processes.all_gather_flat(mine)
        buffer = self._buffer(trajectories, group_size, step)
        if train and not all(map(self.algorithm.keep, buffer.groups)):
            raise TrainingError(
                f"{self.algorithm.name}.keep rejects a group: TRL fixes the questions of a step, so none can be "
                "replaced; use an algorithm that keeps every group"
            )
        if self.algorithm.needs_information_gain:
            buffer.prefixes = decoder.prefixes()
            self._measure(buffer, step)
        buffer.release_prefixes()  # stale after the update
        if self.reference is not None:
            buffer.reference_logprobs = self._reference_logprobs(buffer, self.reference)
        advantages = checked(self.algorithm.advantages(buffer), buffer, f"{self.algorithm.name}.advantages")
        first = processes.rank * len(questions)
        here = slice(first, first + len(questions))
        rows = iter(training_rows(buffer, advantages))
        places = [None if t.retrieval_failed else next(rows) for t in trajectories]
        return Rollout(buffer, advantages, trajectories[here], places[here])

    def _buffer(self, trajectories: Sequence[Trajectory], group_size: int, step: int) -> RolloutBuffer:
        groups = []
        for start in range(0, len(trajectories), group_size):
            siblings = trajectories[start : start + group_size]
            if len({(t.question.dataset, t.question.id) for t in siblings}) > 1:
                raise TrainingError(
                    f"a group of {group_size} episodes has several questions: each must be repeated {group_size} "
                    "times in a row; leave TRL's sampler as it is"
                )
            kept = [t for t in siblings if not t.retrieval_failed]
            groups.append(Group(siblings[0].question, kept, len(siblings) - len(kept)))
        failed, allowed = sum(group.failed for group in groups), self.config.env.max_failure_rate
        if failed > allowed * len(trajectories):
            raise TrainingError(
                f"step {step}: retrieval failed for {failed} of {len(trajectories)} episodes, more than "
                f"env.max_failure_rate={allowed}; fix the retriever and resume"
            )
        attempts = sum(len(t.attempts) for t in trajectories)
        buffer = RolloutBuffer([g for g in groups if g.trajectories], failed, {"step": step, "attempts": attempts})
        buffer.check_trainable()
        return buffer

    def _measure(self, buffer: RolloutBuffer, step: int) -> None:
        scorer = self.sampler.scorer(buffer.prefixes)
        seed = information_gain_seed(self.config.seed, step)
        gain = InformationGain(self.config.information_gain, scorer, self.rules.protocol, self.retriever, seed)
        measure_information_gain(buffer, gain, self.processes)

    def _reference_logprobs(self, buffer: RolloutBuffer, reference: Policy | BasePolicy) -> Float32s:
        temperature = self.config.rollout.temperature
        return map_policy_tokens(
            buffer,
            lambda ids_BT, mask_BT: reference.token_logprobs(ids_BT, mask_BT, temperature)[0],
            self.config.rollout.token_budget,
            option="rollout.token_budget",
            pad_id=self.policy.tokenizer.pad_id,
            device=self.policy.device,
            processes=self.processes,
        )

    def close(self) -> None:
        """Close the engine."""
        self.sampler.close()


def mean_advantages(rows: Sequence[TrainingRow | None]) -> list[float]:
    """Mean advantage over the policy tokens of each row; 0 where there is none."""
    return [0.0 if row is None else float(np.mean(row.advantages[row.mask])) for row in rows]
