"""Builds the parts of a run from its configuration: processes, models, learners; draws the questions of a step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from algorithms.common.base.hardware import free_processors
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.evaluation.scores import limit_per_dataset
from algorithms.common.memory.plan import plan_memory
from algorithms.common.model.policy import BasePolicy, Policy, PolicyModule
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.rollout.environment import make_questions
from algorithms.common.run.checkpoint import latest_intact, load_optimizers, load_weights
from algorithms.common.run.folder import check_folder, with_saved_threads
from algorithms.common.training.config import CriticConfig
from algorithms.common.training.critic import Critic
from algorithms.common.training.learner import Learner
from algorithms.common.training.precision import precision_warning
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from retrievers.random_streams import random_stream, stream_seed


def make_torch_deterministic(seed: int, threads: int | None = None) -> None:
    """Make torch deterministic and seed it, for the whole process. `threads`: CPU threads; None: torch's default."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(stream_seed("torch", seed))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else matrix products on a GPU may differ
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # all is written


def choose_threads(free: float | None = None) -> tuple[int, str]:
    """How many CPU threads a new run uses, and a notice if other work takes processors that it might use.

    Threads that share a processor with other work delay all others, which wait for them many times in each pass: twenty
    busy processes made two threads on two processors three times as slow as one. The number decides the order in which
    sums are rounded, so it is chosen once, and a resumed run keeps it.

    Args:
        free: processors that are free; None: measured, unless the user has set the number of threads of OpenMP or MKL.
    """
    threads = torch.get_num_threads()
    if free is None and (threads == 1 or {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()):
        return threads, ""
    free = free_processors() if free is None else free
    chosen = max(1, min(threads, round(free)))
    if chosen == threads:
        return threads, ""
    return chosen, (
        f"other work keeps {threads - chosen} of {threads} processors busy: this run uses {chosen} thread"
        f"{'s' * (chosen > 1)}, also when it is resumed; --threads sets another number, which changes the rounding"
    )


def threads_of_run(folder: Path, algorithm: str, config: TrainConfig, console: Console) -> int | None:
    """The number of CPU threads of the run in a folder, new or resumed; None: torch's default.

    Raises as `check_folder`, which decides whether the folder is of this run.
    """
    config, resumes = with_saved_threads(folder, config)
    check_folder(folder, algorithm, config)
    if config.threads is not None or resumes:
        return config.threads
    threads, notice = choose_threads()
    if notice:
        console.print(f"[yellow]{notice}[/yellow]", soft_wrap=True)
    return threads


def start_processes(config: TrainConfig) -> Processes:
    """Join the process group. Raises `ConfigurationError` if there are fewer questions per step than processes."""
    processes = Processes.start(config.distributed, config.policy.device)
    if config.rollout.questions_per_step < processes.size:
        raise ConfigurationError(
            f"rollout.questions_per_step={config.rollout.questions_per_step} for {processes.size} "
            "processes: each process plays whole groups, so give at least one question per process, or start fewer"
        )
    return processes


def print_plan(
    console: Console,
    config: TrainConfig,
    processes: Processes,
    *,
    needs_reference: bool,
    needs_critic: bool,
    eval_questions: int,
) -> None:
    """Print the estimated memory of the run. Raises `ConfigurationError` if the weights alone do not fit."""
    plan = plan_memory(
        config,
        needs_reference=needs_reference,
        needs_critic=needs_critic,
        world_size=processes.size,
        device=processes.device,
        eval_questions=eval_questions,
    )
    plan.render(console)
    warning = precision_warning(config.policy, config.optimizer.lr)
    if warning:
        console.print(f"[yellow]{escape(warning)}[/yellow]")


# ---------------------------------------------------------------- models


def make_reference(policy: Policy, config: TrainConfig) -> Policy | BasePolicy:
    """The frozen starting policy: `policy` without its adapter, or a copy made before a checkpoint is restored."""
    # A sharded model can't run a forward pass without its adapter.
    if policy.adapter is not None and config.distributed.sharding == "none":
        return BasePolicy(policy)
    lower = DTYPES[config.rollout.dtype] if config.rollout.dtype else policy.model.dtype
    return policy.replica(lower, policy.compute_dtype)


def make_critic(policy: Policy, critic: CriticConfig, config: TrainConfig, processes: Processes) -> Critic:
    """The critic: a copy of the policy with a value head."""
    return Critic(policy, critic, config.optimizer, processes, config.distributed)


def make_learner(policy: Policy, config: TrainConfig, processes: Processes) -> Learner:
    """The learner of the policy; with sharding, this shards the policy in place."""
    return Learner(
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


def restore_or_make_learner(
    policy: Policy,
    critic: Critic | None,
    config: TrainConfig,
    processes: Processes,
    run_dir: Path,
    console: Console,
) -> tuple[Learner, int]:
    """Restore the latest intact checkpoint in `run_dir`, if any; returns the learner and the number of steps done.

    This also restores the weights of `policy` and of `critic`. With `config.overwrite`, nothing is restored.
    """
    saved: Path | None = None
    notices: list[str] = []
    if not config.overwrite:
        saved, notices = processes.run_on_main(lambda: latest_intact(run_dir / "checkpoints"))
    for line in notices:
        console.print(f"[yellow]{escape(line)}[/yellow]", soft_wrap=True)
    steps_done = load_weights(saved, policy) if saved else 0  # before the learner shards them
    learner = make_learner(policy, config, processes)
    if saved:
        load_optimizers(saved, learner, critic.learner if critic else None)
        console.print(f"resuming {run_dir} after step {steps_done}")
    return learner, steps_done


# ---------------------------------------------------------------- questions


def questions_of_run(config: TrainConfig) -> tuple[list[Question], list[Question], list[Question]]:
    """The training questions, and the dev and test questions that are evaluated."""
    env = config.env
    train = make_questions(env.questions, "train", "env.questions")
    option = "env.dev_questions" if env.dev_questions else "env.eval_questions"
    dev = make_questions(env.dev_questions or env.eval_questions, "dev", option)
    test = make_questions(env.eval_questions, "test", "env.eval_questions")
    return train, limit_per_dataset(dev, config.eval_limit), limit_per_dataset(test, config.test_limit)


def information_gain_seed(seed: int, step: int) -> int:
    """Seed of the random evidence of a step."""
    return stream_seed("information gain of a step", seed, step)


def questions_of_step(
    questions: Sequence[Question], count: int, *, seed: int, step: int, refill: int = 0
) -> list[Question]:
    """Draw `count` training questions for a step (from 1), without repetition within an epoch.

    `refill`: number of a further draw in the same step (from 1), to replace groups that the algorithm does not keep.
    """
    total = len(questions)
    if refill:
        rng = random_stream("questions of a refill", seed, step, refill)
        return [questions[i] for i in rng.choice(total, count, replace=total < count)]
    places = range((step - 1) * count, step * count)
    epochs = {place // total for place in places}
    orders = {e: random_stream("questions of an epoch", seed, e).permutation(total) for e in epochs}
    return [questions[orders[place // total][place % total]] for place in places]
