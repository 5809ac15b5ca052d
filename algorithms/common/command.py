"""The command line of training, which `python algorithms/ig_grpo.py` runs; it is parsed before torch is imported."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TypeVar

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.command_line import command_line, refuse
from algorithms.common.config import TrainConfig, parse_config, with_file
from algorithms.common.distributed.failures import end_process, lost_process
from algorithms.common.rollout.environment import check_named_world
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.base import RetrieverError

C = TypeVar("C", bound=TrainConfig)


def main(algorithm_class: Callable[[C], Algorithm], config_class: type[C], description: str | None = None) -> None:
    """Run an algorithm from the command line."""

    def action(config: C) -> None:
        from algorithms.common.trainer import train

        train(algorithm_class(config), config)

    run_command(config_class, action, description)


def run_command(config_class: type[C], action: Callable[[C], object], description: str | None = None) -> None:
    """Parse the command line, do `action`, and end the process: with a message after an error or Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminated)
    message: str | None = "interrupted: the same command resumes from the last checkpoint"
    with suppress(KeyboardInterrupt):  # it may also arrive while an error is handled
        try:
            words = command_line()
            config = parse_config(config_class, words, description)
        except ConfigurationError as error:
            refuse(error)
        try:
            check_named_world(config.env, with_file(config_class, words))
            action(config)
            message = None
        except (IGSearchError, RetrieverError, RuntimeError, OSError) as error:
            explanation = explained(error)
            if explanation is None:
                raise
            message = f"error: {explanation}"
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_process(message)


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


def _terminated(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM of a launcher that lost another process or of a cluster that stops the job; some send it twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
