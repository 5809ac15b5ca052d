"""`EndpointScorer` with a real vLLM compared with `PolicyScorer`: largest difference, seconds, and use of the cache.

    python -m benchmarks.endpoint_scorer --install     build the environment of `vllm_environment.py` first
    python -m benchmarks.endpoint_scorer               if it is there
    python -m benchmarks.endpoint_scorer --models bundled "$(python examples/fetch_model.py smollm2-135m)"

For each model a server starts in a process of its own, in float32, and is stopped at the end whatever happens. The
requests are those of information gain over a buffer of episodes: sampled by the bundled policy, or for another model
played by the demonstrator, since a model that is not trained hardly ever searches. The exit status is 1 if a score
differs by more than `--tolerance` nats.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
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
from benchmarks.vllm_environment import VARIABLE, environment_folder, install, ready_python, vllm_server
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
from retrievers.program import ends_in_one_line

FORMS: tuple[FormName, ...] = ("vllm", "vllm_prompt", "openai")
PROTOCOL = make_protocol("search_r1", "bare")


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    install: bool = False
    """Build the environment of vLLM first, if it is not there."""
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
    environment = environment_folder()
    python = install(environment) if args.install else ready_python(environment)
    if python is None:
        raise RuntimeError(f"no vLLM in {environment}: pass --install, or name an environment in {VARIABLE}")
    results = []
    for name in args.models:
        folder = Path(POLICY_FOLDER) if name == "bundled" else Path(name)
        settings = PolicyConfig(path=str(folder), device="cpu", dtype="float32", context_length=args.context_length)
        policy = Policy.load(settings)
        with vllm_server(python, folder, args.context_length + 1) as server:
            for result in compare(policy, "bundled" if name == "bundled" else folder.name, server.address, args):
                print(result, flush=True)
                results.append(result)
    worst = max(result.difference for result in results)
    print(f"max difference {worst:.1e} nats; at most {args.tolerance:g} are allowed")
    return worst <= args.tolerance


if __name__ == "__main__":
    options = parse_options(Args, description=__doc__)
    with ends_in_one_line(RuntimeError, OSError, subprocess.SubprocessError):
        same = main(options)
    sys.exit(0 if same else 1)
