"""Runs scripts of the tests with the Python of an environment that holds a real vLLM.

vLLM pins its own torch and transformers, so it has an environment of its own. Packages that it lacks (accelerate, peft,
gymnasium and so on) are those of the environment that runs the tests: they come last in the search path, so that
vLLM's own versions are preferred (`borrowed_packages.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from paths import ROOT, TESTS
from real_vllm import vllm_python

SECONDS = 850.0  # of a script
SCRIPTS = TESTS / "with_vllm"


def run_in_vllm(script: str, folder: Path, *arguments: str, processes: int = 1) -> str:
    """Run a script in `folder` and return its output; it must end well."""
    command = [str(vllm_python())]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    ended = subprocess.run(
        [*command, str(SCRIPTS / script), *arguments],
        env=environment(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    return ended.stdout


def result_of(script: str, folder: Path, *arguments: str) -> Any:
    """What the script writes to the file of its first argument, as JSON."""
    result = folder / "result.json"
    run_in_vllm(script, folder, str(result), *arguments)
    return json.loads(result.read_text())


def environment() -> dict[str, str]:
    """The environment of a script: few threads, a small KV cache, and the packages of this interpreter last."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTEST_", "PYTHON"))}
    return kept | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
        "IGSEARCH_TEST_PACKAGES": sysconfig.get_path("purelib"),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
