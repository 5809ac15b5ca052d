"""How a program ends: with one line after an error, Ctrl-C or a missing package, and quietly when its output is cut.

Exit statuses of every program of this project:

    0         done
    1         something failed while it ran: a service, a disk, another process; a bug, with a traceback
    2         refused: an option, a file, a folder or an address has to be changed, or a package installed
    130, 143  interrupted by Ctrl-C (the process ends by SIGINT itself) or by SIGTERM
    141       the reader of its output has closed it

Of an error it is the `exit_status` of its class.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from retrievers.base import RetrieverError
from retrievers.credentials import mask
from retrievers.extras import missing_package

FAILED, REFUSED, CUT = 1, 2, 141
GRACE = 10.0  # seconds in which the first of several processes prints why all of them stop


@contextmanager
def ends_in_one_line(*errors: type[Exception], interrupted: str = "interrupted") -> Iterator[None]:
    """The body of a program, which exits with a message for `errors`, those of this package, and Ctrl-C.

    A failed import of an optional package becomes a message with the extra that installs it.
    """
    expected: tuple[type[Exception], ...] = (RetrieverError, *errors)
    try:
        with quiet_if_cut():
            yield
    except KeyboardInterrupt as interruption:
        end_by_signal(signal_of(interruption), str(interruption) or interrupted)
    except expected as error:
        end(f"error: {mask(str(error))}", status_of(error))
    except ImportError as error:
        missing = missing_package(error, "this command")
        if missing is None:
            raise
        end(f"error: {missing}", REFUSED)


def status_of(error: BaseException) -> int:
    """The exit status of a program that an error ends."""
    found: int = getattr(error, "exit_status", FAILED)
    return found


def end(message: str, status: int) -> NoReturn:
    """Print a message to standard error and exit."""
    print(message, file=sys.stderr)
    raise SystemExit(status)


def refuse(error: Exception) -> NoReturn:
    """Print an error of the command line or of what it names, and exit.

    If all processes of a machine refuse the command, the first one prints and its launcher terminates the others while
    they wait. One that is still there afterwards has an error of its own, such as a file that it alone can't read.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # A launcher terminates all processes as soon as one has exited: not before the first one has printed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(GRACE)
    end(f"error: {mask(str(error))}", status_of(error))


class TerminatedError(KeyboardInterrupt):
    """The interruption of a program by SIGTERM: of a cluster, or of a launcher that lost another process."""


def raise_on_sigterm() -> None:
    """Let SIGTERM raise a `TerminatedError`, once: some senders repeat it."""

    def terminated(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TerminatedError

    signal.signal(signal.SIGTERM, terminated)


def signal_of(interruption: KeyboardInterrupt) -> signal.Signals:
    """The signal that an interruption is of."""
    return signal.SIGTERM if isinstance(interruption, TerminatedError) else signal.SIGINT


def end_by_signal(stopped: signal.Signals, message: str) -> NoReturn:
    """End a program that a signal has interrupted with a message, and with the status that shells expect.

    After Ctrl-C it ends by SIGINT itself, as the interpreter does for a `KeyboardInterrupt` that nothing handles: a
    shell or `make` then stops, too, and does not continue with its next command. Otherwise the status is 128 + the
    number of the signal.
    """
    if stopped != signal.SIGINT:
        print(message, file=sys.stderr)
        sys.exit(128 + stopped)
    sys.excepthook = lambda *_: print(message, file=sys.stderr)
    raise KeyboardInterrupt(message) from None


@contextmanager
def quiet_if_cut() -> Iterator[None]:
    """Exits quietly when the reader of standard output has closed it, as `head` does."""
    _replace_closed_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        sys.exit(CUT)


def _replace_closed_streams() -> None:
    """Standard streams that were closed before the start (`>&-`) become the null device; they are None otherwise."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the end)
