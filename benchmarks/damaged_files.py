"""Damaged and hostile files of every kind that is read: does opening one run code, crash, or end in a traceback?

    python -m benchmarks.damaged_files --files 2000

Each file is a good one that was damaged at random (`damage.py`), opened in a process of its own kind. Allowed are a
good result and an error of the project's own, in one line that names the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from benchmarks.damage import damage
from benchmarks.measure import Line
from benchmarks.readable import KINDS
from igsearch_env.errors import IGSearchError
from retrievers import RetrieverError
from retrievers.random_streams import random_stream

ROOT = Path(__file__).parent.parent
READ, REFUSED, RAN, TRACEBACK, SIGNAL = "read", "refused", "code run", "traceback", "signal"


def lines(files: int = 2_000, seed: int = 0, show: bool = True) -> list[Line]:
    """The number of files whose opening ran code, ended by a signal or raised an error that is not the project's."""
    counts: Counter[str] = Counter()
    share = -(-files // len(KINDS))
    for number, kind in enumerate(KINDS):
        results = open_damaged(kind, min(share, files - number * share), seed)
        counts.update(result for result, _ in results)
        for result, detail in results:
            if show and result not in (READ, REFUSED):
                print(f"{kind}: {result}: {detail}", flush=True)
    detail = ", ".join(f"{counts[result]} {result}" for result in (READ, REFUSED, RAN, SIGNAL, TRACEBACK))
    bad = counts[RAN] + counts[SIGNAL] + counts[TRACEBACK]
    return [Line("damaged or hostile files that are not read or refused", bad, "files", 0, detail=detail)]


def open_damaged(kind: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """The results of opening `count` damaged files of a kind, with details. A crash costs one file."""
    results: list[tuple[str, str]] = []
    while len(results) < count:
        command = [sys.executable, "-m", "benchmarks.damaged_files", kind, str(len(results)), str(count), str(seed)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
        found = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("\x1f")]
        results += [(result, detail) for result, detail in found]
        if len(results) < count:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            results.append((SIGNAL, f"file {len(results)}: exit status {done.returncode}, {last[:200]}"))
    return results


def _worker(kind: str, first: int, count: int, seed: int) -> None:
    """Open damaged files of a kind; prints a line of JSON per file."""
    make, read = KINDS[kind]
    with tempfile.TemporaryDirectory() as name:
        good = Path(name) / "good"
        good.mkdir()
        make(good)
        for number in range(first, count):
            folder, mark = Path(name) / f"{number}", Path(name) / f"ran-{number}"
            what = damage(good, folder, mark, random_stream("damage", seed, kind, number))
            result = _opened(read, folder, mark)
            print("\x1f" + json.dumps([result[0], f"file {number}, {what}: {result[1]}"]), flush=True)


def _opened(read: Callable[[Path], Any], folder: Path, mark: Path) -> tuple[str, str]:
    result, detail = READ, ""
    try:
        read(folder)
    except (IGSearchError, RetrieverError) as error:
        result, detail = REFUSED, str(error)
        if "\n" in detail:
            result = TRACEBACK
    except SystemExit as error:  # of the command line
        result = REFUSED if error.code == 2 else TRACEBACK
    except BaseException as error:  # also a panic of a library in Rust
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        result, detail = TRACEBACK, f"{type(error).__name__}: {str(error)[:200]}{where}"
    return (RAN, detail) if mark.exists() else (result, detail)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in KINDS:
        _worker(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        for measured in tyro.cli(lines, description=__doc__):
            print(f"{measured.name}: {measured.value:,.0f} {measured.detail}")
