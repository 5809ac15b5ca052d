"""Every mistake of `mistakes_table.py`, as a process: how long it takes to its message, and whether it is refused well.

python -m benchmarks.mistakes
python -m benchmarks.mistakes --only policy.path
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from algorithms.common.base.command_line import parse_options
from benchmarks.measure import Line
from benchmarks.mistake_files import write_files
from benchmarks.mistakes_table import MISTAKES, Mistake
from retrievers.lock import ProcessLock

ROOT = Path(__file__).parent.parent
LIMIT = 2.0  # seconds on an idle machine
MOST_LINES = 8  # of standard error: the stages before, and one message
IGSEARCH = "import sys; sys.argv[0] = 'igsearch'; from igsearch.cli import main; main()"
SCRIPT = """
import runpy, sys
sys.argv[0] = {path!r}
runpy.run_path({path!r}, run_name="__main__")
"""
MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {without!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
FULL_DISK = """
import errno, os, sys
def no_space(event, args):
    writes = event == "os.mkdir" or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and isinstance(args[0], (str, bytes, os.PathLike)):
        if f"{os.sep}full{os.sep}" in os.path.abspath(os.fsdecode(args[0])):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), args[0])
sys.addaudithook(no_space)
"""
HUB_SECONDS = 10.0  # after which huggingface_hub gives up a request


@dataclass(frozen=True)
class Args:
    """Options of the script."""

    only: str = ""
    """Only commands that contain this text."""


@dataclass(frozen=True)
class Place:
    """The folder in which commands run, and a port that is in use."""

    folder: Path
    port: int

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file, and the folders."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.parent.name != "locked":  # its owner writes there
                state = path.stat()
                found[str(path)] = (state.st_size, state.st_mtime_ns) if path.is_file() else (0, 0)
        return found


@contextmanager
def place() -> Iterator[Place]:
    """A folder with everything that the mistakes name; it is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as busy:
        folder = Path(name) / "work"
        folder.mkdir()
        write_files(folder)
        (folder / "full").mkdir()
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with ProcessLock(folder / "locked"):
            yield Place(folder, busy.getsockname()[1])


def make(mistake: Mistake, where: Place) -> subprocess.CompletedProcess[str]:
    """Run the command, without a network and without a GPU."""
    program, *words = shlex.split(mistake.command.replace("{port}", str(where.port)))
    before = MISSING.format(without=mistake.without) if mistake.without else ""
    before += FULL_DISK if mistake.full_disk else ""
    if program == "igsearch":
        start = ["-c", before + IGSEARCH]
    elif before:
        start = ["-c", before + SCRIPT.format(path=str(ROOT / words.pop(0)))]
    else:
        start = [str(ROOT / words.pop(0))]
    aside = where.folder.parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(aside / "hub"),
        "HF_ENDPOINT": f"http://127.0.0.1:{where.port if mistake.silent_hub else 9}",
        "HF_HUB_OFFLINE": "0",
        "IGSEARCH_CACHE": str(aside / "cache"),
    }
    return subprocess.run(
        [sys.executable, *start, *words],
        cwd=where.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def problem(mistake: Mistake, where: Place, done: subprocess.CompletedProcess[str]) -> str:
    """What is wrong with how a mistake was answered; "" if nothing is."""
    lines = done.stderr.strip().splitlines()
    if done.returncode != 2:
        return f"exit status {done.returncode}"
    if len(lines) > MOST_LINES or not lines or not lines[-1].startswith("error: "):
        return "not one message at the end"
    if sum(line.startswith("error: ") for line in lines) != 1 or "Traceback" in done.stderr:
        return "more than one message"
    missing = [says for says in mistake.says if says.replace("{port}", str(where.port)) not in lines[-1]]
    return f"the message lacks {missing[0]!r}" if missing else ""


def measured(only: str = "", show: bool = True) -> Iterator[tuple[float, Mistake, str]]:
    """Seconds beside those that a Hub is waited for, mistake and problem of each."""
    with place() as where:
        for mistake in MISTAKES:
            if only not in mistake.command:
                continue
            began = time.perf_counter()
            done = make(mistake, where)
            seconds = time.perf_counter() - began - HUB_SECONDS * mistake.silent_hub
            wrong = problem(mistake, where, done)
            if show:
                print(f"{seconds:5.2f} s  {mistake.command}", flush=True)
            if show and wrong:
                print(f"         {wrong}: {done.stderr[-1000:]}", flush=True)
            yield seconds, mistake, wrong


def lines(only: str = "", show: bool = True) -> list[Line]:
    """The slowest mistake, and the number of those that are not refused well."""
    found = list(measured(only, show))
    slowest, mistake, _ = max(found, key=lambda one: one[0])
    late = sum(seconds > LIMIT for seconds, _, _ in found)
    bad = sum(bool(wrong) for _, _, wrong in found)
    return [
        Line("slowest of the refused commands", slowest, "s", LIMIT, at_most=True, detail=mistake.command),
        Line(
            f"refused commands that take more than {LIMIT:g} s",
            late,
            "commands",
            0,
            at_most=True,
            detail=f"of {len(found)}",
        ),
        Line(
            "mistakes that are not refused with one message",
            bad,
            "commands",
            0,
            at_most=True,
            detail=f"of {len(found)}",
        ),
    ]


if __name__ == "__main__":
    options = parse_options(Args, description=__doc__)
    for line in lines(options.only):
        print(line)
