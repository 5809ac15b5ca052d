"""`Collector`: this process's rollouts of each batch, collected when they are asked for or during earlier updates.

With `rollout.max_staleness` above 0, a thread collects the next batches while the main thread updates the policy:

    main thread   | batch t | update of step t    | batch t+1 | update of step t+1  |
    thread                  | rollouts of t+1, by weights t-1 | rollouts of t+2, by weights t |

Weights of version v have seen the updates of steps 1 to v. The thread only plays episodes. Everything that involves
other processes, and every change of the sampler's weights, happens in the main thread of all processes while no batch
is being collected.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import torch

from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.rollout.turn_decoder import TurnDecoder
from algorithms.common.run.setup import questions_of_step
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Group

CLOSE_SECONDS = 15.0  # for which the end of a run waits for its thread; longer than that waits for its searches


class Collector:
    """Collects batches for a run that has done `steps_done` steps; the methods are for its main thread."""

    def __init__(
        self,
        config: TrainConfig,
        sampler: Sampler,
        stepper: EpisodeStepper,
        questions: Sequence[Question],
        processes: Processes,
        steps_done: int,
    ) -> None:
        self.config, self.sampler, self.stepper = config, sampler, stepper
        self.questions, self.processes = questions, processes
        self.max_staleness = config.rollout.max_staleness
        self.newest = steps_done  # version of the trained weights
        self.hidden = 0.0  # seconds of the last batch's rollouts for which the main thread did not wait
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._changed = threading.Condition()  # guards what follows
        self._allowed = self._begun = self._ended = steps_done  # last step whose batch may begin, has begun, has ended
        self._played: dict[int, tuple[RolloutBuffer, float]] = {}  # by step, with the seconds that it took
        self._error: BaseException | None = None

    def batch(self, step: int) -> RolloutBuffer:
        """The batch of a step: collected ahead, or now with the newest weights. Raises what the thread raised."""
        self.hidden = 0.0
        if not self.max_staleness:
            return self._play(step)
        with self._changed:
            ahead = step in self._played or self._ended < step <= self._allowed
            self._hold()  # a batch that begins while this one is waited for would have older weights than need be
        if not ahead:  # the first one of this process
            self.pause()
            batch = self._play(step)
            with self._changed:
                self._allowed = self._begun = self._ended = max(step, self._allowed)
            return batch
        start = time.perf_counter()
        self._wait(step)
        if step not in self._played:
            assert self._error is not None  # `_wait`
            raise self._error
        batch, seconds = self._played.pop(step)
        self.hidden = max(0.0, seconds - (time.perf_counter() - start))
        return batch

    def refill(self, step: int, refill: int) -> RolloutBuffer:
        """Further groups for a step, with the newest weights; `refill` counts from 1. Every process must call it."""
        self.pause()
        return self._play(step, refill)

    def is_fresh(self, group: Group, step: int) -> bool:
        """Whether no token of a group is too stale for the update of a step."""
        versions = [turn.weights_version for t in group.trajectories for turn in t.turns]
        return not self.max_staleness or step - 1 - min(versions) <= self.max_staleness

    # ---------------------------------------------------------------- the weights

    def updated(self, step: int) -> None:
        """The trained weights have seen the update of a step. Every process must call it."""
        self.newest = step
        if not self.max_staleness:
            self.sampler.sync_weights(step)

    def run_ahead(self) -> None:
        """Let the thread collect the following batches with the newest weights, or finish those that it has begun.

        Call it before an update, when the batch is complete. Every process must call it.
        """
        if not self.max_staleness or not self._settled():
            return
        self._sync()
        with self._changed:
            self._allowed = min(self.newest + 1 + self.max_staleness, self.config.steps)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._collect_ahead, name="rollouts", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Wait until no batch is being collected, and give the sampler the newest weights. Every process must call it.

        No other begins until `run_ahead` is called. An error of the thread is raised later, by the `batch` that it
        concerns: the present step can be completed, evaluated and saved without that batch.
        """
        if not self.max_staleness:
            return
        if not self._settled():
            self._wait(self._allowed)  # not for what is no longer being collected because of an error
            self.processes.barrier()  # an engine may be shared
        self._sync()

    def close(self) -> None:
        """End the thread, in the middle of a batch too, after the turns that an engine is writing.

        It is not waited for longer than `CLOSE_SECONDS`: a search or a server may not answer. It is a daemon.
        """
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _sync(self) -> None:
        if self.sampler.version < self.newest:
            self.sampler.sync_weights(self.newest)

    def _hold(self) -> None:
        """Let no batch begin but that of the next step, if it was allowed already."""
        self._allowed = max(self._begun, min(self._allowed, self.newest + 1))

    def _settled(self) -> bool:
        """Agree on the batches that all processes still collect with the sampler's weights; whether all have ended.

        These are the ones that any process has begun or that `_hold` lets begin.
        """
        with self._changed:
            self._hold()
            mine = (self._allowed, self._ended)
        found = self.processes.gather(mine)
        with self._changed:
            self._allowed = max(allowed for allowed, _ in found)
            self._changed.notify_all()
            return all(ended == self._allowed for _, ended in found)

    # ---------------------------------------------------------------- the thread

    def _collect_ahead(self) -> None:
        if self.sampler.trained.device.type == "cuda":
            torch.cuda.set_device(self.sampler.trained.device)  # the current device is that of a thread
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._begun < self._allowed or self._stopped.is_set())
                if self._stopped.is_set():
                    return
                self._begun += 1
                step = self._begun
            start = time.perf_counter()
            try:
                played = self._play(step), time.perf_counter() - start
            except BaseException as error:  # the main thread raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._played[step], self._ended = played, step
                self._changed.notify_all()

    def _wait(self, step: int) -> None:
        """Wait until the thread has collected the batch of a step, or has ended with an error."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended >= step or self._error is not None)

    def _play(self, step: int, refill: int = 0) -> RolloutBuffer:
        config, share = self.config.rollout, self.processes.share(self.config.rollout.questions_per_step)
        questions = questions_of_step(
            self.questions, config.questions_per_step, seed=self.config.seed, step=step, refill=refill
        )
        decoder = self.sampler.decoder(len(share) * config.group_size, config.temperature)
        batch = collect(
            _interruptible(decoder, self._stopped) if self.max_staleness else decoder,
            self.stepper,
            questions[share.start : share.stop],
            group_size=config.group_size,
            seed=(self.config.seed, step, refill),
            first=share.start,
        )
        for turn in (turn for trajectory in batch.trajectories for turn in trajectory.turns):
            turn.weights_version = self.sampler.version
        if not self.max_staleness:  # else the sampler continues with other batches
            batch.prefixes = decoder.prefixes()
        return batch


class _StoppedError(Exception):
    """The run has ended."""


class _Interruptible:
    """A decoder that raises `_StoppedError` once `stopped` is set: at its next step, or where one would wait for it."""

    def __init__(self, decoder: TurnDecoder, stopped: threading.Event) -> None:
        self._decoder, self._stopped = decoder, stopped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    @property
    def writing(self) -> int:
        self._check()
        return self._decoder.writing

    def decode_step(self, timeout: float | None = None) -> Any:
        self._check()
        return self._decoder.decode_step(timeout)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


def _interruptible(decoder: TurnDecoder, stopped: threading.Event) -> TurnDecoder:
    return cast(TurnDecoder, _Interruptible(decoder, stopped))


# ---------------------------------------------------------------- metrics


def staleness_metrics(buffer: RolloutBuffer, step: int) -> dict[str, float]:
    """Staleness of the policy tokens at the update of a step, in updates that their sampler had not seen."""
    staleness = step - 1 - buffer.versions
    return {
        "staleness/mean": float(staleness.mean()),
        "staleness/max": float(staleness.max()),
        "staleness/dropped_groups": float(buffer.metadata["dropped_groups"]),
    }


def of_earlier_weights(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics of an update on rollouts of earlier weights: `mismatch/` becomes `off_policy/`.

    The difference of sampler and trainer is then not of numerics alone: the policy has changed, too.
    """
    return {name.replace("mismatch/", "off_policy/"): value for name, value in metrics.items()}
