"""How long a run will take, measured on a few episodes before its first step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.run.run import Run
from algorithms.common.run.setup import questions_of_step

FEW, MORE = 1, 3  # questions of the two rollouts: their difference separates costs per episode from fixed ones
BACKWARD = 2.0  # time of a backward pass, in forward passes

T = TypeVar("T")


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of the parts of a step, of an evaluated question, and of all tracked questions at one step."""

    rollout: float
    information_gain: float
    update: float
    question: float
    tracked: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.rollout + self.information_gain + self.update

    def message(self, steps: int, questions: int, tracked: int) -> str:
        """One line for `steps` steps, the evaluation of so many questions in all, and tracked ones at so many steps."""
        total = steps * self.step + questions * self.question + tracked * self.tracked
        parts = f"rollout {self.rollout:.1f}, information gain {self.information_gain:.1f}, update {self.update:.1f}"
        shown = [f"{steps:,} steps of {self.step:.1f} s ({parts})", f"{questions:,} evaluated questions"]
        if tracked and self.tracked:
            shown.append(f"{tracked:,} rollouts of the tracked questions ({self.tracked:.1f} s each)")
        listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
        measured = f"as measured on {FEW + MORE} questions"
        return f"time: about {timedelta(seconds=round(total))} for {listed}, {measured}"


def estimate_time(run: Run, *, needs_information_gain: bool, recomputes: bool) -> TimeEstimate:
    """Play, score and read a few groups, without an update. Every process must call it.

    A step is extrapolated from the rollouts of `FEW` and of `MORE` questions; an update is taken as a forward pass and
    a backward pass of `BACKWARD` times its length, plus another forward pass if it `recomputes` old log-probs before.
    Parts are added up, so with `rollout.max_staleness` a step takes less, as far as rollouts and updates overlap.
    """
    config = run.config.rollout
    few, few_seconds = _timed(lambda: _collect(run, FEW))
    more, more_seconds = _timed(lambda: _collect(run, MORE))
    episodes = len(run.processes.share(config.questions_per_step)) * config.group_size
    per_episode = max(0.0, more_seconds - few_seconds) / (len(more.trajectories) - len(few.trajectories))
    rollout = few_seconds + per_episode * (episodes - len(few.trajectories))
    of_tracked = len(run.processes.share(run.config.tracked_questions)) * config.group_size
    tracked = few_seconds + per_episode * (of_tracked - len(few.trajectories)) if of_tracked else 0.0
    scale = episodes / len(more.trajectories)
    gain = 0.0
    if needs_information_gain:
        measured = run.information_gain(0, more.prefixes)
        _, seconds = _timed(lambda: measure_information_gain(more, measured))
        gain = seconds * scale
        tracked += seconds * of_tracked / len(more.trajectories)
    for buffer in (few, more):
        buffer.release_prefixes()
    learner = run.learner
    _, forward = _timed(
        lambda: learner.map_policy_tokens(more, lambda ids, mask: learner.module(ids, mask, config.temperature)[0])
    )
    optimizer = run.config.optimizer
    passes = (1 + BACKWARD) * optimizer.epochs + recomputes
    # All processes have read the same share of a buffer that each of them holds.
    update = passes * forward * scale
    return TimeEstimate(rollout, gain, update, per_episode or few_seconds / len(few.trajectories), tracked)


def _collect(run: Run, count: int) -> RolloutBuffer:
    config = run.config.rollout
    questions = questions_of_step(run.train_questions, count, seed=run.config.seed, step=1)
    decoder = run.sampler.decoder(count * config.group_size, config.temperature)
    # Step 0 is no step of the run, so no episode of it has these draws.
    buffer = collect(decoder, run.stepper, questions, group_size=config.group_size, seed=(run.config.seed, 0, count))
    buffer.prefixes = decoder.prefixes()
    return buffer


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
