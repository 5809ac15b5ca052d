"""How processes of a run end: an error that says which one was lost, and an exit that gloo's threads survive."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys

import torch.distributed as dist

from algorithms.common.base.errors import TrainingError
from igsearch_env.errors import IGSearchError

# What torch's back ends say when another process is gone or silent.
_LOST = re.compile(r"gloo|nccl|closed by peer|connection reset|timed? ?out|process group", re.IGNORECASE)


class DistributedError(TrainingError):
    """Another process of the run has ended or does not answer."""


def lost_process(error: RuntimeError, where: str) -> DistributedError | None:
    """What an error of a back end means for the run, if it is about another process; None if it is not."""
    if isinstance(error, IGSearchError) or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
        return None
    # NCCL says where in its first line, and why in its last.
    lines = [line[:200] for line in str(error).splitlines()]
    reason = " ... ".join(dict.fromkeys((lines[0], lines[-1])))
    return DistributedError(
        f"{where}: another process has ended or did not answer within distributed.timeout_minutes, or can't be reached "
        f"({reason}). Its own output says why; the same command resumes from the last checkpoint"
    )


def end_process(message: str | None = None) -> None:
    """What a program does last: fail with `message`, as `sys.exit` does; without one, return, or end one of several.

    One of several ends without taking its interpreter down, once its exit handlers have run. A thread of gloo may
    still be dropping the tensors of the last exchange, for which it needs the interpreter's lock, and whoever asks for
    that while the interpreter goes down aborts the process: the launcher then takes a run that is done for one that has
    failed (pytorch/pytorch issue 190489).
    """
    if world_size() == 1:
        if message is not None:
            sys.exit(message)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what became of this process is settled
    atexit._run_exitfuncs()
    if message is not None:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if message is None else 1)


def world_size() -> int:
    """How many processes a launcher says that it has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))
