"""The command line of training, which `python algorithms/ig_grpo.py` runs; it is parsed before torch is imported."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import TypeVar

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.command_line import command_line, refuse
from algorithms.common.config import TrainConfig, parse_config, with_file
from algorithms.common.distributed.failures import end_process, lost_process
from algorithms.common.rollout.environment import check_named_world
from algorithms.common.run.layout import resumption, run_folder
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.base import RetrieverError
from retrievers.program import raise_on_sigterm, signal_of

C = TypeVar("C", bound=TrainConfig)


def main(algorithm_class: Callable[[C], Algorithm], config_class: type[C], description: str | None = None) -> None:
    """Run an algorithm from the command line."""

    def action(config: C) -> None:
        from algorithms.common.trainer import train

        train(algorithm_class(config), config)

    def resumes(config: C) -> str:
        return resumption(run_folder(algorithm_class(config).name, config), overwrite=config.overwrite)

    run_command(config_class, action, description, resumes)


def run_command(
    config_class: type[C],
    action: Callable[[C], object],
    description: str | None = None,
    resumes: Callable[[C], str] = lambda config: "the same command resumes",
) -> None:
    """Parse the command line, do `action`, and end the process: with a message after an error or a signal.

    `resumes`: what the same command does after it was interrupted.
    """
    raise_on_sigterm()
    config: C | None = None
    message: str | None = None
    stopped: signal.Signals | None = None
    try:  # a signal may also arrive while an error is handled
        try:
            words = command_line()
            config = parse_config(config_class, words, description)
        except ConfigurationError as error:
            refuse(error)
        try:
            check_named_world(config.env, with_file(config_class, words))
            action(config)
        except (IGSearchError, RetrieverError, RuntimeError, OSError) as error:
            explanation = explained(error)
            if explanation is None:
                raise
            message = "\n".join([f"error: {explanation}", *getattr(error, "__notes__", ())])
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt as interruption:
        stopped = signal_of(interruption)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        message = "interrupted"
        if config is not None and os.environ.get("RANK", "0") == "0":
            message = f"interrupted: {resumes(config)}"
    end_process(message, stopped)


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
