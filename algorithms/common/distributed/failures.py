"""How the processes of a run end: an error for a lost process, and an exit that is safe with gloo's threads."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys

from algorithms.common.base.errors import TrainingError
from igsearch_env.errors import IGSearchError
from retrievers.program import FAILED, end, end_by_signal

# Words in the errors of torch's back ends when another process has ended or does not answer.
_LOST = re.compile(r"gloo|nccl|closed by peer|connection reset|timed? ?out|process group", re.IGNORECASE)

RESUMES = "the same command resumes from the last checkpoint"


class DistributedError(TrainingError):
    """Another process of the run has ended or does not answer."""


def lost_process(error: RuntimeError, where: str, repair: str = RESUMES) -> DistributedError | None:
    """A `DistributedError` for a back end's error about another process; None for any other error.

    `repair`: what to do then.
    """
    import torch.distributed as dist

    if isinstance(error, IGSearchError) or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
        return None
    # NCCL gives the location in its first line, and the cause in its last.
    lines = [line[:200] for line in str(error).splitlines()]
    reason = " ... ".join(dict.fromkeys((lines[0], lines[-1])))
    return DistributedError(
        f"{where}: another process has ended or did not answer within distributed.timeout_minutes, or can't be reached "
        f"({reason}). See its own output for the cause; {repair}"
    )


def end_process(message: str | None = None, status: int | None = None, stopped: signal.Signals | None = None) -> None:
    """The last call of a program: print `message` and exit; return if there is nothing to report and one process.

    `status`: the exit status; None: 0 without a message, else `FAILED`.

    `stopped`: the signal that has ended the program, which decides the exit status (`retrievers/program.py`).

    One of several processes runs its exit handlers and exits without finalizing the interpreter. A thread of gloo may
    still be releasing the tensors of the last exchange, for which it needs the GIL, and a thread that requests the GIL
    during finalization aborts the process: the launcher would report a finished run as failed (pytorch/pytorch issue
    190489).
    """
    status = status if status is not None else 0 if message is None else FAILED
    if world_size() == 1:
        if stopped is not None:
            end_by_signal(stopped, message or "interrupted")
        if message is not None:
            end(message, status)
        if status:
            raise SystemExit(status)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the exit status of this process is decided
    atexit._run_exitfuncs()
    if message is not None:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + stopped if stopped is not None else status)


def world_size() -> int:
    """Number of processes that the launcher has started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))
