"""The command line of training, which `python algorithms/ig_grpo.py` runs; it is parsed before torch is imported."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from typing import TypeVar

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.command_line import command_line
from algorithms.common.config import TrainConfig, parse_config, with_file
from algorithms.common.distributed.failures import end_process, lost_process
from algorithms.common.run.layout import resumption, run_folder
from igsearch_env.errors import IGSearchError
from retrievers.base import RetrieverError
from retrievers.program import raise_on_sigterm, refuse, signal_of, status_of

C = TypeVar("C", bound=TrainConfig)


def main(algorithm_class: Callable[[C], Algorithm], config_class: type[C], description: str | None = None) -> None:
    """Run an algorithm from the command line."""

    def action(config: C) -> None:
        from algorithms.common.trainer import train

        train(algorithm_class(config), config)

    def resumes(config: C) -> str:
        return resumption(run_folder(algorithm_class(config).name, config), overwrite=config.overwrite)

    run_command(config_class, action, description, resumes, lambda config: algorithm_class(config).name)


def run_command(
    config_class: type[C],
    action: Callable[[C], object],
    description: str | None = None,
    resumes: Callable[[C], str] = lambda config: "the same command resumes",
    name: Callable[[C], str] = lambda config: "",
) -> None:
    """Parse the command line, do `action`, and end the process: with a message after an error or a signal.

    Args:
        config_class: its options.
        action: what the command does.
        description: text at the top of the help.
        resumes: what the same command does after it was interrupted.
        name: of the algorithm, whose run folder is checked; "" for a warm start.
    """
    raise_on_sigterm()
    config: C | None = None
    message: str | None = None
    status = 0
    stopped: signal.Signals | None = None
    try:  # a signal may also arrive while an error is handled
        try:
            words = command_line()
            config = parse_config(config_class, words, description)
            check_before_torch(config, with_file(config_class, words), name(config))
        except (IGSearchError, RetrieverError) as error:
            refuse(error)
        try:
            action(config)
        except (IGSearchError, RetrieverError, RuntimeError, OSError) as error:
            explanation = explained(error)
            if explanation is None:
                raise
            message = "\n".join([f"error: {explanation}", *getattr(error, "__notes__", ())])
            status = status_of(error)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt as interruption:
        stopped = signal_of(interruption)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        message = "interrupted"
        if config is not None and os.environ.get("RANK", "0") == "0":
            message = f"interrupted: {resumes(config)}"
    end_process(message, status, stopped)


def check_before_torch(config: TrainConfig, words: Sequence[str], algorithm: str) -> None:
    """`check_inputs`, and whether the folder of a warm start, if there is one, can be used."""
    from algorithms.common.run.inputs import check_inputs  # not needed for --help
    from algorithms.common.warm_start.folder import check_folder, with_trained_policy

    check_inputs(config, words, algorithm, with_trained_policy(config))
    if config.warm_start.folder is not None:
        check_folder(config.warm_start.folder, config, run_folder(algorithm, config) if algorithm else None)


def explained(error: Exception) -> str | None:
    """The message to print for an error that ends a run; None if the error is a bug."""
    if isinstance(error, (IGSearchError, RetrieverError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}: free disk space and run the same command again to resume from the last checkpoint"
    if isinstance(error, RuntimeError) and "RANK" in os.environ:
        lost = lost_process(error, f"process {os.environ['RANK']}")
        return None if lost is None else str(lost)
    return None
