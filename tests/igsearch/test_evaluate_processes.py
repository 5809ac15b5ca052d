"""`igsearch evaluate` in several processes: the file of one process, whoever ends and whoever resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from launching import ENVIRONMENT
from paths import ROOT

from igsearch.commands import evaluate

EVALUATE = ("-m", "igsearch", "evaluate")


def command(processes: int, output: Path, *options: str) -> list[str]:
    """The words of an evaluation of the bundled policy."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    common = ("--limit", "6", "--batch-size", "4", "--output", str(output))
    return [sys.executable, *launcher, *EVALUATE, *common, *options]


def alone(output: Path, **options: Any) -> None:
    """The same evaluation in this process."""
    evaluate.main(evaluate.Args(limit=6, batch_size=4, output=output, **options))


def evaluated(processes: int, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The end of a successful evaluation."""
    done = subprocess.run(
        command(processes, output, *options),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def started(processes: int, output: Path, *options: str) -> subprocess.Popen[str]:
    """An evaluation that has kept at least one answer."""
    process = subprocess.Popen(
        command(processes, output, *options),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 200
    while answers(output) == 0:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def answers(output: Path) -> int:
    """Answers that a stopped evaluation has kept."""
    partial = output.with_name(f"{output.name}.partial.jsonl")
    return max(0, len(partial.read_bytes().splitlines()) - 1) if partial.is_file() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that one process writes."""
    output = tmp_path_factory.mktemp("one") / "out.json"
    alone(output)
    return output.read_bytes()


def test_two_processes_write_the_file_of_one(whole: bytes, tmp_path: Path) -> None:
    done = evaluated(2, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert done.stdout.count("macro-average, all") == 1
    assert done.stderr.count("evaluating 42 questions, up to 4 at once by each of 2 processes") == 1
    assert done.stderr.count("loading the policy") == 1


def test_a_scripted_policy_is_played_by_several_processes(tmp_path: Path) -> None:
    alone(tmp_path / "1.json", policy="search-question")
    evaluated(2, tmp_path / "2.json", "--policy", "search-question")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_an_interrupted_evaluation_is_resumed_by_another_number_of_processes(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    process = started(2, output)
    for worker in workers(process):
        worker.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert f"interrupted: the same command resumes from {output}.partial.jsonl" in said
    assert 'File "' not in said.partition("torch/distributed")[0]  # a traceback of the launcher alone
    kept = answers(output)
    assert 0 < kept < 42
    alone(output)
    assert f"resuming: {kept} of 42 questions are already answered" in capsys.readouterr().err
    assert output.read_bytes() == whole


def test_the_loss_of_a_process_leaves_its_answers(whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    process = started(2, output)
    victim = next(worker for worker in workers(process) if worker.environ()["RANK"] == "1")
    os.kill(victim.pid, signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "resumes from" in said, said
    assert f"{output}.partial.jsonl" in said
    assert not output.exists()
    assert 0 < answers(output) < 42
    evaluated(3, output)
    assert output.read_bytes() == whole


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a launcher started."""
    return [child for child in psutil.Process(process.pid).children() if "igsearch" in child.cmdline()]
