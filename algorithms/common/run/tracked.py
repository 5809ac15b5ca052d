"""`TrackedQuestions`: rollouts of a few training questions, recorded at fixed steps so that they can be compared.

A step draws new questions, so the same one rarely comes back. Tracked questions are rolled out by the weights of that
step before training, at every evaluation and after the last step, and are not trained on: their random streams are
their own, and neither weights nor metrics of the run change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.hardware import release_memory
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.run.recorded_trajectories import record_trajectories
from algorithms.common.run.run import Run
from algorithms.common.training.policy_update import recompute_logprobs, reference_logprobs
from igsearch_env.errors import IGSearchError
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import InformationGain, set_gains
from igsearch_env.questions import Question
from retrievers.base import RetrieverError
from retrievers.random_streams import random_stream, stream_seed


def tracked_questions(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """The first `count` questions of a random order that takes turns between data sets.

    The order depends on `questions` and `seed` alone: with a larger `count`, the same ones come first.
    """
    datasets: dict[str, list[Question]] = {}
    if count:
        for place in random_stream("order of tracked questions", seed).permutation(len(questions)):
            datasets.setdefault(questions[place].dataset, []).append(questions[place])
    turns = chain.from_iterable(zip_longest(*datasets.values()))
    return [question for question in turns if question is not None][:count]


def is_due(step: int, config: TrainConfig) -> bool:
    """Whether they are rolled out after a step: before training (0), at every evaluation and after the last step."""
    return step in (0, config.steps) or (config.eval_every > 0 and step % config.eval_every == 0)


class TrackedQuestions:
    """Rolls out and records the tracked questions of a run. Every process must call its methods."""

    def __init__(self, run: Run, algorithm: Algorithm) -> None:
        self.run, self.algorithm = run, algorithm
        self.questions = tracked_questions(run.train_questions, run.config.tracked_questions, run.config.seed)

    def after(self, step: int) -> None:
        """Record them after a step, if they are due then.

        What a resumed run has recorded after its last step is kept.
        """
        run = self.run
        there = run.processes.run_on_main(lambda: step == run.steps_done > 0 and self._path(step).is_file())
        if self.questions and is_due(step, run.config) and not there:
            start = time.perf_counter()
            self._record(step)
            if run.log is not None:
                run.log.write(step, {"time/tracked": time.perf_counter() - start})

    def _path(self, step: int) -> Path:
        return self.run.dir / "trajectories" / f"tracked-{step:06d}.json.gz"

    def _record(self, step: int) -> None:
        """Write their groups to RUN_DIR/trajectories/tracked-STEP.json.gz.

        What can't be played or computed is left out, with a warning: it is not needed for training.
        """
        run = self.run
        run.progress.activity = f"rolling out {len(self.questions)} tracked questions"
        run.collector.pause()
        mine, problem = self._play(step)
        run.sampler.sleep()  # what follows needs the memory, as in a step
        problems = [problem or self._measure(mine)]  # of this process's share, before that of others joins it
        mine.release_prefixes()
        groups, failed = run.processes.all_gather_flat(mine.groups), sum(run.processes.gather(mine.failed))
        problems = run.processes.all_gather_flat(problems)
        buffer = RolloutBuffer(groups, failed, {"step": step})
        advantages: dict[str, Float32s] = {}
        if not buffer.trajectories and not any(problems):
            problems = [f"retrieval failed for all {failed} episodes; nothing is recorded"]
        elif not any(problems):
            problem, advantages = self._advantages(buffer)
            problems.append(problem)
        if run.processes.is_main and buffer.trajectories:
            limit = len(buffer.trajectories)
            record_trajectories(self._path(step), buffer, advantages, run.policy.tokenizer, limit=limit)
        release_memory()
        run.sampler.wake()
        run.progress.activity = ""
        if any(problems):
            run.progress.warn(f"tracked questions at step {step}: {next(filter(None, problems))}")

    def _play(self, step: int) -> tuple[RolloutBuffer, str]:
        """The groups of this process's share of the questions, as in training but with random streams of their own.

        And why they can't be played, or "".
        """
        run, config = self.run, self.run.config.rollout
        share = run.processes.share(len(self.questions))
        if not share:
            return RolloutBuffer([]), ""
        decoder = run.sampler.decoder(len(share) * config.group_size, config.temperature)
        try:
            buffer = collect(
                decoder,
                run.stepper,
                self.questions[share.start : share.stop],
                group_size=config.group_size,
                seed=(stream_seed("episodes of tracked questions", run.config.seed, step),),
                first=share.start,
            )
        except (IGSearchError, RetrieverError) as error:  # such as a prompt that is too long
            return RolloutBuffer([]), f"not rolled out ({error})"
        for turn in (turn for trajectory in buffer.trajectories for turn in trajectory.turns):
            turn.weights_version = run.sampler.version
        buffer.prefixes = decoder.prefixes()
        return buffer, ""

    def _measure(self, buffer: RolloutBuffer) -> str:
        """Set the gain of every search, if the algorithm needs it; returns why that is not possible, else "".

        Random evidence is of the corpus and the same at every step, so that gains differ by policy and query only.
        """
        run = self.run
        steps = search_steps(buffer.trajectories)
        if not self.algorithm.needs_information_gain or not steps:
            return ""
        config = replace(run.config.information_gain, random_source="corpus")
        seed = stream_seed("information gain of tracked questions", run.config.seed)
        gain = InformationGain(config, run.sampler.scorer(buffer.prefixes), run.protocol, run.retriever, seed)
        try:
            set_gains(steps, gain.of_batch(steps))
        except (IGSearchError, RetrieverError) as error:
            return f"recorded without information gains and advantages ({error})"
        return ""

    def _advantages(self, buffer: RolloutBuffer) -> tuple[str, dict[str, Float32s]]:
        """Why the algorithm has no advantages for the buffer, or "", and its advantages by name."""
        run, algorithm = self.run, self.algorithm
        temperature = run.config.rollout.temperature
        if run.reference is not None and algorithm.needs_reference:
            if run.config.old_logprobs(exact=run.sampler.exact, needs_reference=True) == "recomputed":
                recompute_logprobs(run.learner, buffer, temperature)
            buffer.reference_logprobs = reference_logprobs(run.learner, run.reference, buffer, temperature)
        if run.critic is not None:
            buffer.values = run.critic.values(buffer)
        try:
            return "", {run.name: algorithm.advantages(buffer)}
        except Exception as error:  # of an algorithm of one's own: it may assume the batch of a training step
            return f"recorded without advantages ({type(error).__name__}: {error})", {}
