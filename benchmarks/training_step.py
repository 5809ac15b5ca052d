"""The update of a training step, as `algorithms.common.trainer.train` calls it, for benchmarks that time its parts."""

from __future__ import annotations

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.run.run import Run
from algorithms.common.training.policy_update import policy_update


def update_policy(run: Run, buffer: RolloutBuffer, advantages: Float32s, step: int) -> dict[str, float]:
    """`policy_update` with the settings of a run; returns its metrics. `step`: from 1."""
    config = run.config
    return policy_update(
        run.learner,
        run.reference,
        buffer,
        advantages,
        config.loss.after_sampling(exact=run.sampler.exact),
        temperature=config.rollout.temperature,
        lr=config.optimizer.learning_rate(step, config.steps),
        step=step,
        seed=config.seed,
        on_policy=config.old_logprobs(exact=run.sampler.exact, needs_reference=False) == "in update",
    )
