"""How many threads a run uses, that it keeps their number, and that waiting threads sleep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from paths import ROOT

from algorithms.common.base.hardware import free_processors
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.common.run.folder import begin_folder
from algorithms.common.run.run import Run
from algorithms.common.run.setup import choose_threads
from algorithms.grpo import GRPO, GRPOConfig


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Torch would use two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of(run: Run) -> tuple[int | None, int, int]:
    """Of its configuration, of its folder, of torch."""
    saved = yaml.safe_load((run.dir / "config.yaml").read_text(encoding="utf-8"))["threads"]
    run.close()
    return run.config.threads, saved, torch.get_num_threads()


def test_a_run_keeps_the_threads_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GRPOConfig(run_dir=tmp_path / "run")
    monkeypatch.setattr("algorithms.common.run.setup.choose_threads", lambda: (1, "busy"))
    assert threads_of(Run(GRPO(config), config)) == (1, 1, 1)
    torch.set_num_threads(2)
    monkeypatch.setattr("algorithms.common.run.setup.choose_threads", lambda: (2, ""))  # the machine is idle again
    assert threads_of(Run(GRPO(config), config)) == (1, 1, 1)
    with pytest.raises(CheckpointError, match="a run with threads=1, this command has 2"):
        Run(GRPO(config), replace(config, threads=2))
    assert threads_of(Run(GRPO(config), replace(config, threads=1))) == (1, 1, 1)
    torch.set_num_threads(2)
    assert threads_of(Run(GRPO(config), replace(config, overwrite=True))) == (2, 2, 2)


def test_a_run_of_an_earlier_version_keeps_torchs_default(tmp_path: Path) -> None:
    config = GRPOConfig(run_dir=tmp_path / "run")
    begin_folder(tmp_path / "run", "grpo", config)
    assert threads_of(Run(GRPO(config), config)) == (None, None, 2)


@pytest.mark.parametrize(("free", "chosen"), [(0.0, 1), (0.4, 1), (1.2, 1), (1.6, 2), (2.0, 2), (64.0, 2)])
def test_as_many_threads_as_processors_are_free(free: float, chosen: int) -> None:
    threads, notice = choose_threads(free)
    assert threads == chosen
    assert ("1 of 2 processors" in notice) == (chosen < 2)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_the_user_has_set_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algorithms.common.run.setup.free_processors", lambda: 0.0)
    for other in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(other, raising=False)
    assert choose_threads()[0] == 1
    monkeypatch.setenv(name, "2")
    assert choose_threads() == (2, "")


@pytest.mark.parametrize(
    ("load", "busy", "free"),
    [
        (0.0, [100.0], 4),  # not asked: nothing has run for a minute
        (4.0, [100.0], 0),
        (20.0, [100.0], 0),
        (20.0, [0.0], 4),  # it has just ended
        (20.0, [100.0, 0.0, 100.0, 100.0], 4),
        (1.0, [100.0], 3),  # a burst: less over the last minute
        (20.0, [50.0, 75.0], 2),
    ],
)
def test_processors_that_other_work_leaves_free(
    load: float, busy: list[float], free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.0, *busy * 4])  # the first call begins the measurement
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 5})
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    # Processor 3 and 4 are busy with what does not concern this process, which may not use them.
    monkeypatch.setattr(psutil, "cpu_percent", lambda percpu: [(x := next(shares)), x, x, 100.0, 100.0, x])
    assert free_processors(seconds=0.0) == free


# What a program imports comes first; its help does not need torch.
HELP_THEN_TORCH = """
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
import torch
"""


@pytest.mark.parametrize(
    ("command", "theirs", "sleep"),
    [("algorithms/grpo.py", None, True), ("benchmarks/run.py", None, True), ("examples/evaluate.py", "ACTIVE", False)],
)
def test_threads_sleep_while_they_wait_unless_the_user_has_chosen(
    command: str, theirs: str | None, sleep: bool
) -> None:
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)}  # OpenMP prints what it has read
    if theirs:
        environment["OMP_WAIT_POLICY"] = theirs
    run = [sys.executable, "-c", HELP_THEN_TORCH, command, "--help"]
    printed = subprocess.run(run, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stderr
    spins = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", printed)
    assert spins  # of every copy of the library that was loaded
    assert all((int(count) <= 1_000) == sleep for count in spins)
