"""One training step of the trainer's own parts, each with the passes that it makes and the seconds that it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from algorithms.common.algorithm import Algorithm
from algorithms.common.model.logprobs import max_logits
from algorithms.common.model.packing import Pack
from algorithms.common.rollout.answer_scorer import measure_information_gain
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.run.run import Run
from algorithms.common.trainer import collect_batch
from algorithms.common.training.policy_update import recompute_logprobs
from benchmarks.machine_rates import Clock, synchronize
from benchmarks.step_costs import ModelShape, Part, Pass, Rates, Work, forward, transfer, update
from benchmarks.training_step import update_policy

PREFILL, DECODE, ROLLOUT = "prefill", "decode", "rollout, the rest"
GAIN, OLD, UPDATE, WEIGHTS = "information gain", "old log-probs", "update", "weights to the sampler"


@dataclass
class _Seen:
    """A pass as it was made; counted after the step, so that counting takes no time from it."""

    positions_n: torch.Tensor
    first: Sequence[int]
    scored: int = 0

    def count(self) -> Pass:
        """A token at position p attends to p + 1 tokens; a block continues as many as the position of its first."""
        past = int(self.positions_n[torch.tensor(self.first)].sum()) if self.first else 0
        return Pass(len(self.positions_n), int(self.positions_n.sum()) + len(self.positions_n), past, self.scored)


@dataclass
class StepWatch:
    """Watches the packed passes of a run, by part of the step."""

    run: Run
    clock: Clock = time.perf_counter
    part: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    seen: dict[str, list[_Seen]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sampler = self.run.sampler
        policy = sampler.policy
        read, logits, decoder = policy.forward_packed, policy.logits, sampler.decoder

        def seen_read(packed: Pack) -> Any:
            if self.part:
                self.seen.setdefault(self.part, []).append(_Seen(packed.positions_n, packed.first))
            return read(packed)

        def seen_logits(hidden: torch.Tensor) -> Any:
            if self.part in self.seen:
                self.seen[self.part][-1].scored += hidden.numel() // hidden.shape[-1]
            return logits(hidden)

        def seen_decoder(*arguments: Any, **options: Any) -> Any:
            made = decoder(*arguments, **options)
            for name, part in (("prefill", PREFILL), ("decode_step", DECODE)):
                setattr(made, name, self._within(part, getattr(made, name)))
            return made

        policy.forward_packed = seen_read  # type: ignore[method-assign]
        policy.logits = seen_logits  # type: ignore[method-assign]
        sampler.decoder = seen_decoder  # type: ignore[method-assign]

    def _within(self, part: str, call: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.timed(part):
                return call(*arguments, **options)

        return timed

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Passes within are of `part`, and its seconds grow."""
        outer, self.part = self.part, part
        synchronize(self.run.policy.device.type)
        start = self.clock()
        yield
        synchronize(self.run.policy.device.type)
        self.seconds[part] = self.seconds.get(part, 0.0) + self.clock() - start
        self.part = outer

    def step(self, algorithm: Algorithm, number: int) -> tuple[RolloutBuffer, Float32s]:
        """Step `number` of the run, as `algorithms.common.trainer.train` makes it; its buffer and advantages."""
        run = self.run
        self.seconds.clear()
        self.seen.clear()
        with self.timed(ROLLOUT):
            buffer = collect_batch(run, algorithm, number)
        self.seconds[ROLLOUT] -= self.seconds[PREFILL] + self.seconds[DECODE]
        if run.config.old_logprobs(exact=run.sampler.exact, needs_reference=False) == "recomputed":
            with self.timed(OLD):
                recompute_logprobs(run.learner, buffer, run.config.rollout.temperature)
        with self.timed(GAIN):
            measure_information_gain(buffer, run.information_gain(number, buffer.prefixes))
        buffer.release_prefixes()
        advantages = algorithm.advantages(buffer)
        with self.timed(UPDATE):
            update_policy(run, buffer, advantages, number)
        with self.timed(WEIGHTS):
            run.sampler.sync_weights()
        return buffer, advantages

    def parts(self, buffer: RolloutBuffer, advantages: Float32s, rates: Rates) -> list[Part]:
        """The parts of the last step, with the floor of each."""
        run, config = self.run, self.run.config
        shape = ModelShape.of(run.policy.model.config.get_text_config())
        stored = run.sampler.policy.model.get_output_embeddings().weight.dtype.itemsize
        size = (run.sampler.policy.compute_dtype or run.sampler.policy.model.dtype).itemsize
        trained = run.policy.model.dtype.itemsize
        work: dict[str, tuple[int, list[Work]]] = {}
        for part in (PREFILL, DECODE, GAIN):
            passes = [seen.count() for seen in self.seen.get(part, [])]
            work[part] = sum(p.tokens for p in passes), list(forward(shape, passes, size, stored))
        if OLD in self.seconds:
            whole = micro_batch_passes(buffer, None, config.optimizer.token_budget)
            work[OLD] = sum(p.tokens for p in whole), list(forward(shape, whole, size, trained))
        read = advantages if config.loss.skips_zeros else None
        batches = micro_batch_passes(buffer, read, config.optimizer.token_budget)
        epochs = config.optimizer.epochs
        limit = max_logits(run.policy.device.type)
        training = update(
            shape,
            batches * epochs,
            recomputed=config.policy.gradient_checkpointing,
            output_recomputed=any(p.scored * shape.vocabulary > limit for p in batches),
            adapters=run.policy.adapter is not None,
            steps=epochs * config.optimizer.num_minibatches,
            weight_size=trained,
        )
        work[UPDATE] = sum(p.tokens for p in batches) * epochs, list(training)
        work[WEIGHTS] = 0, [transfer(shape, stored)] if run.sampler.policy is not run.policy else []
        return [
            Part.of(name, *work.get(name, (0, [])), rates, self.seconds[name])
            for name in (PREFILL, DECODE, ROLLOUT, OLD, GAIN, UPDATE, WEIGHTS)
            if name in self.seconds
        ]


def micro_batch_passes(buffer: RolloutBuffer, values: Float32s | None, budget: int) -> list[Pass]:
    """The micro-batches of an epoch as passes over real tokens.

    `values`: sequences are read up to their last value that is not 0; None: whole ones.
    """
    lengths = buffer.lengths if values is None else buffer.lengths_with(values)
    blank: Float32s = buffer.broadcast([0.0] * len(buffer.trajectories))
    passes = []
    for batch in buffer.micro_batches(blank, range(len(lengths)), budget, 0, lengths):
        blocks = [(int(lengths[row]), 0) for row in batch.rows]
        passes.append(Pass.of_blocks(blocks, int(batch.mask_BT.sum())))
    return passes
