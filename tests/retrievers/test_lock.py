"""The lock of a folder or file: one owner at a time, and none that has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from paths import ROOT

from retrievers.lock import OWNER, STALE_SECONDS, LockedError, Owner, ProcessLock

HOLDER = "import sys, time; from pathlib import Path; from retrievers.lock import ProcessLock\n"
HOLDER += "lock = ProcessLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("stopped", [False, True])
def test_another_process_is_named_until_it_has_ended(stopped: bool, tmp_path: Path) -> None:
    process = holder(tmp_path)
    if stopped:
        os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(LockedError, match=rf"in use by process {process.pid} on host"):
        ProcessLock(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lock = ProcessLock(tmp_path)
    assert f"was left by process {process.pid} " in lock.notice
    lock.release()
    assert not list(tmp_path.iterdir())
    again = ProcessLock(tmp_path)
    assert again.notice == ""
    again.release()
    again.release()


def write_owner(folder: Path, **changes: object) -> None:
    """An owner's file."""
    this = Owner.this_process()
    content = {"host": this.host, "pid": this.pid, "started": this.started, **changes}
    (folder / OWNER).write_text(json.dumps(content))


def test_an_owner_on_another_host_is_believed_while_it_gives_signs(tmp_path: Path) -> None:
    write_owner(tmp_path, host="other")
    with pytest.raises(LockedError, match=r"in use by process \d+ on host other .*last heartbeat is \d+ s old"):
        ProcessLock(tmp_path)
    old = time.time() - STALE_SECONDS - 5
    os.utime(tmp_path / OWNER, (old, old))
    lock = ProcessLock(tmp_path)
    assert "on host other" in lock.notice
    lock.release()


def test_where_there_are_no_locks_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    process = holder(tmp_path / "other")
    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    other = json.loads((tmp_path / "other" / OWNER).read_text())
    (tmp_path / "here").mkdir()
    write_owner(tmp_path / "here", **other)
    with pytest.raises(LockedError, match=rf"in use by process {process.pid}"):
        ProcessLock(tmp_path / "here")
    write_owner(tmp_path / "here", **{**other, "started": other["started"] - 1_000})  # a process of before, with its id
    ProcessLock(tmp_path / "here").release()
    process.kill()
    process.wait()
    write_owner(tmp_path / "here", **other)
    ProcessLock(tmp_path / "here").release()


@pytest.mark.parametrize("content", ["", "[]", '{"host": 3}', '{"host": "h", "pid": "x", "started": 1}', "[" * 10_000])
def test_a_damaged_owner_is_no_obstacle(content: str, tmp_path: Path) -> None:
    (tmp_path / OWNER).write_text(content)
    lock = ProcessLock(tmp_path)
    assert lock.notice == ""
    lock.release()


def test_a_file_is_locked_beside_it(tmp_path: Path) -> None:
    with ProcessLock(tmp_path / "out.json", file=True), pytest.raises(LockedError, match=r"out\.json is in use"):
        ProcessLock(tmp_path / "out.json", file=True)
    assert not list(tmp_path.iterdir())
    with ProcessLock(tmp_path / "out.json", file=True), ProcessLock(tmp_path / "other.json", file=True):
        pass


def test_one_of_many_takes_it(tmp_path: Path) -> None:
    taken: list[ProcessLock] = []

    def take() -> None:
        with suppress(LockedError):
            taken.append(ProcessLock(tmp_path))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].release()
