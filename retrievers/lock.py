"""`ProcessLock`: one process at a time writes to a folder or a file.

The lock is one of the operating system (filelock), so it is free as soon as its owner has ended, however that happened.
A file beside it says who the owner is. The owner touches that file every few seconds (a heartbeat): some file systems
do not share locks between hosts, and there another host is taken to be writing as long as it does so.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from retrievers.base import RetrieverError
from retrievers.files import atomic_write
from retrievers.reading import FileError, read_json

LOCK, OWNER = "run.lock", "owner.json"  # in a folder; beside a file: .NAME.lock and .NAME.owner.json
HEARTBEAT_SECONDS = 5.0  # between two heartbeats
STALE_SECONDS = 60.0  # an owner on another host without a heartbeat for this long has ended


class LockedError(RetrieverError, RuntimeError):
    """Another process writes to the folder or file; the message names it."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock. `started`: when it began, in seconds since 1970, since ids are used again."""

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """The owner that a file names; None if there is no such file, or a damaged one."""
        try:
            found = read_json(path)
        except FileError:
            return None
        match found:
            case {"host": str(host), "pid": int(pid), "started": float(started)} if 0 < pid < 2**31:
                return cls(host, pid, started)
        return None

    @property
    def runs(self) -> bool:
        """Whether this process, and not a later one with its id, runs on this host."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def __str__(self) -> str:
        try:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        except (ValueError, OverflowError, OSError):
            since = f"{self.started} s"
        return f"process {self.pid} on host {self.host} (started {since})"


class ProcessLock:
    """The lock of a folder, which is created if necessary, or of a file (`file=True`). Taken by the constructor.

    Raises `LockedError` if another process holds it. `notice`: a notice about an owner that ended without a
    release; "" if there is none.
    """

    def __init__(self, target: Path, *, file: bool = False) -> None:
        self.target = target
        folder = target.parent if file else target
        self._made = not file and not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LockedError(f"{folder} can't be created ({error.strerror}); write elsewhere") from error
        self._path = folder / (f".{target.name}.lock" if file else LOCK)
        self._owner = folder / (f".{target.name}.owner.json" if file else OWNER)
        self._lock = FileLock(self._path, blocking=False, thread_local=False)
        self._released = threading.Event()
        shared = True
        try:
            self._lock.acquire()
        except Timeout as error:
            self._check_writable()  # some file systems, such as /proc, look locked
            raise LockedError(
                f"{target} is in use by {Owner.read(self._owner) or 'another process'}; {_REPAIR}"
            ) from error
        except OSError as error:
            raise LockedError(f"{self._path} can't be written ({error.strerror}); write elsewhere") from error
        except NotImplementedError:
            shared = False  # a file system without locks: the owner's file alone decides
        try:
            before = Owner.read(self._owner)
            self.notice = "" if before is None else self._check_previous(before, shared)
            with atomic_write(self._owner) as partial:
                partial.write_text(json.dumps(asdict(Owner.this_process())) + "\n", encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise LockedError(f"{self._owner} can't be written ({error.strerror}); remove it") from error
        except BaseException:
            self._lock.release()
            raise
        threading.Thread(target=self._heartbeat, daemon=True, name="lock").start()

    def _check_writable(self) -> None:
        try:
            self._path.touch()
        except OSError as error:
            raise LockedError(f"{self._path} can't be written ({error.strerror}); write elsewhere") from error

    def _check_previous(self, before: Owner, shared: bool) -> str:
        """The notice about an owner that has ended. Raises `LockedError` if it has not."""
        if before.host == socket.gethostname():
            if not shared and before.runs and before.pid != os.getpid():
                raise LockedError(f"{self.target} is in use by {before}; {_REPAIR}")
        else:
            silent = _now(self._owner.parent) - self._owner.stat().st_mtime
            if silent < STALE_SECONDS:
                raise LockedError(
                    f"{self.target} is in use by {before}, whose last heartbeat is {max(silent, 0):.0f} s old; "
                    f"{_REPAIR}. If it has ended, the same command works in {STALE_SECONDS - silent:.0f} s"
                )
        return f"{self.target} was left by {before}, which ended without finishing; this process continues"

    def _heartbeat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the file system may be away for a while
                os.utime(self._owner)

    def release(self) -> None:
        """Let others write. A folder that the lock created and that holds nothing else is removed."""
        if self._released.is_set():
            return
        self._released.set()
        self._owner.unlink(missing_ok=True)
        with suppress(OSError):
            self._path.unlink()  # while it is held: filelock does not take a lock on a deleted file
        self._lock.release()
        if self._made:
            with suppress(OSError):  # not empty
                self.target.rmdir()

    def __enter__(self) -> ProcessLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def in_use(folder: Path) -> bool:
    """Whether the owner that a folder names still runs: on this host by its id, on another one by its heartbeat."""
    owner = Owner.read(folder / OWNER)
    if owner is None:
        return False
    if owner.host == socket.gethostname():
        return owner.runs
    try:
        return time.time() - (folder / OWNER).stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


def check_unlocked(folder: Path) -> None:
    """Raise `LockedError` if another process holds the lock of a folder. Nothing is written."""
    if not (folder / LOCK).is_file():
        return
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        owner = Owner.read(folder / OWNER) or "another process"
        raise LockedError(f"{folder} is in use by {owner}; {_REPAIR}") from error
    except (OSError, NotImplementedError):  # found out by `ProcessLock`
        return
    lock.release()


_REPAIR = "wait until it has ended, stop it, or write elsewhere"


def _now(folder: Path) -> float:
    """The time of the file system, which may differ from that of this host."""
    probe = folder / f".time-{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
