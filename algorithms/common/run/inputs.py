"""What a command of training names, checked before torch is imported: most mistakes are reported within a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from algorithms.common.base.errors import CheckpointError
from algorithms.common.base.output_path import check_output_folder
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.failures import world_size
from algorithms.common.model.available import check_device, check_policy, is_first_here
from algorithms.common.rollout.config import check_engine
from algorithms.common.rollout.environment import check_corpus, check_named_world, check_questions
from algorithms.common.run.folder import check_folder, with_saved_threads
from algorithms.common.run.layout import run_folder
from igsearch_env.errors import ConfigurationError
from igsearch_env.gain_sources import check_source
from igsearch_env.protocols import make_protocol
from retrievers.lock import LockedError, check_unlocked


def check_inputs(
    config: TrainConfig, words: Sequence[str], algorithm: str = "", trained: TrainConfig | None = None
) -> None:
    """Raise an error for what a run could not begin with; the first process of each machine checks it.

    Nothing is written. Files of questions are read, and kept for the run (`make_questions`).

    Args:
        config: of the run, or of a warm start.
        words: the command line, with the options of a configuration file.
        algorithm: its name, which decides the folder of a run; "" for a warm start.
        trained: the configuration with the policy that the run trains, if its warm start makes another one.
    """
    if config.rollout.questions_per_step < world_size():
        raise ConfigurationError(
            f"rollout.questions_per_step={config.rollout.questions_per_step} for {world_size()} processes: each "
            "process plays whole groups; give at least one question per process, or start fewer (--nproc-per-node)"
        )
    if not is_first_here():
        return
    if algorithm:
        _check_run_folder(run_folder(algorithm, config), algorithm, trained or config)
    if config.warm_start.folder is not None:
        check_output_folder(config.warm_start.folder, "--warm-start.folder")
    env = config.env
    make_protocol(env.protocol, env.prompt, None, env.system_prompt)
    check_engine(config.rollout.engine)
    check_device(config.policy.device)
    check_named_world(env, words)
    check_source(config.information_gain.source, check_questions(env.questions, "train", "env.questions"))
    for sources, split, option in (
        (env.dev_questions, "dev", "env.dev_questions"),
        (env.eval_questions, "test", "env.eval_questions"),
    ):
        check_questions(sources, split, option)
    check_corpus(env.corpus, env.retriever, "env.")
    check_policy(config.policy.path)


def _check_run_folder(folder: Path, algorithm: str, config: TrainConfig) -> None:
    check_output_folder(folder, "--run-dir")
    try:
        check_unlocked(folder)
    except LockedError as error:
        raise CheckpointError(str(error)) from error
    config, _ = with_saved_threads(folder, config)
    check_folder(folder, algorithm, config)
