"""Runs scripts of the tests with the Python of an environment that holds a real vLLM.

vLLM pins its own torch and transformers, so it has an environment of its own: IGSEARCH_VLLM_PYTHON names its
interpreter. Packages that it lacks (accelerate, peft, gymnasium and so on) are those of the environment that runs the
tests: they come last in the search path, so that vLLM's own versions are preferred.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT, TESTS

SECONDS = 600.0  # of a script
VARIABLE = "IGSEARCH_VLLM_PYTHON"


def vllm_python() -> str:
    """The interpreter; skips the test without one."""
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"{VARIABLE} is not set: it names the Python of an environment with vLLM")
    if not Path(python).is_file():
        pytest.fail(f"{VARIABLE}={python} is no file")
    return python


def run_in_vllm(script: str, folder: Path, *arguments: str, processes: int = 1) -> Any:
    """Run tests/real_vllm/SCRIPT RESULT ARGUMENTS; returns what it writes to the file RESULT, as JSON.

    Each of several processes writes to RESULT with its rank at the end; the result is a list then.
    """
    result = folder / f"{Path(script).stem}.json"
    command = [vllm_python()]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    ended = subprocess.run(
        [*command, str(TESTS / "real_vllm" / script), str(result), *arguments],
        env=environment(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    if processes == 1:
        return json.loads(result.read_text())
    return [json.loads(result.with_name(f"{result.name}{rank}").read_text()) for rank in range(processes)]


def environment() -> dict[str, str]:
    """The environment of a script: few threads, a small KV cache, and the packages of this interpreter last."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTEST_", "PYTHON"))}
    return kept | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
        "IGSEARCH_TEST_PACKAGES": sysconfig.get_path("purelib"),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
