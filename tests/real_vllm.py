"""A real vLLM for tests (marker `vllm`, `make test-vllm`): servers, samplers on them, updates, and its counters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.fetch import cache_folder
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.vllm_server import VllmServerEngine
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.rollout.turn_decoder import Completion
from benchmarks.vllm_environment import (
    ROLLOUTS,
    VARIABLE,
    RunningServer,
    environment_folder,
    ready_python,
    vllm_server,
)
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_retriever, bundled_world

CONTEXT = 1_024
EXACT = 5e-5  # nats by which the log-probs of sampler and trainer may differ in float32
BUNDLED = Path(POLICY_FOLDER)
STOPS = ("</search>", "</answer>")
LORA = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def vllm_python() -> Path:
    """The Python of the environment with vLLM; skips where there is none."""
    python = ready_python(environment_folder())
    if python is None:
        pytest.skip(
            f"no vLLM in {environment_folder()}: `python -m benchmarks.vllm_environment` builds it (ten minutes), or "
            f"name an environment in {VARIABLE}"
        )
    return python


def smollm2() -> Path:
    """The folder of SmolLM2; skips where it has not been fetched."""
    folder = cache_folder() / "models" / "smollm2-135m"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no SmolLM2 in {folder}: `python examples/fetch_model.py smollm2-135m` fetches it")
    return folder


@contextmanager
def rollout_server(model: Path, *options: str, **settings: Any) -> Iterator[RunningServer]:
    """A server for rollouts with a model."""
    with vllm_server(vllm_python(), model, CONTEXT, *ROLLOUTS, *options, **settings) as server:
        yield server


def sampler_of(policy: Policy, stack: ExitStack, *servers: RunningServer, **options: Any) -> Sampler:
    """A sampler on these servers, with the policy's weights."""
    url = ",".join(server.address for server in servers)
    config = RolloutConfig(engine="vllm_server", server_url=url, **options)
    sampler = Sampler(policy, config, STOPS, Processes())
    stack.callback(sampler.close)
    sampler.start()
    return sampler


def engine_of(sampler: Sampler) -> VllmServerEngine:
    """Its engine."""
    assert isinstance(sampler.engine, VllmServerEngine)
    return sampler.engine


def all_of(engine: VllmServerEngine) -> None:
    """Wait until nothing is in flight."""
    while engine.finished():
        pass


def episodes(sampler: Sampler, questions: int, group_size: int = 2, seed: int = 5, slots: int = 64) -> list[Trajectory]:
    """Rollouts of the first test questions of the bundled world."""
    chosen = bundled_world().questions["test"][:questions]
    rules = EpisodeRules(max_searches=3, protocol=make_protocol(prompt="bare"))
    stepper = EpisodeStepper(chosen, bundled_retriever(), None, rules)
    decoder = sampler.decoder(slots, 1.0)
    return collect(decoder, stepper, chosen, group_size=group_size, seed=(seed,)).trajectories


def turns_of(sampler: Sampler, prompts: Sequence[Sequence[int]], seed: int = 0) -> list[Completion]:
    """One turn after each prompt; the seed of each is that of its place."""
    decoder = sampler.decoder(len(prompts), 1.0)
    assert isinstance(decoder, EngineDecoder)
    slots = [decoder.begin(prompt, np.random.default_rng([seed, place])) for place, prompt in enumerate(prompts)]
    decoder.prefill()
    written: dict[int, Completion] = {}
    while decoder.writing:
        written.update(decoder.decode_step())
    return [written[slot] for slot in slots]


def apart(policy: Policy, trajectories: Sequence[Trajectory]) -> float:
    """The largest difference between the log-probs of a rollout and those of the policy."""
    worst = 0.0
    for trajectory in trajectories:
        context = list(trajectory.prompt_ids)
        for turn in trajectory.turns:
            own = logprobs(policy, context, turn.completion_ids)
            worst = max(worst, float(np.abs(own - np.asarray(turn.logprobs)).max()))
            context += [*turn.completion_ids, *turn.observation_ids]
    return worst


@torch.no_grad()
def logprobs(policy: Policy, prompt: Sequence[int], ids: Sequence[int]) -> Any:
    """What the policy gives to `ids` after a prompt."""
    row = torch.tensor([[*prompt, *ids]])
    mask = torch.zeros(row.shape, dtype=torch.bool)
    mask[0, len(prompt) :] = True
    return policy.token_logprobs(row, mask)[0].float().numpy()


def update(policy: Policy, updates: int, lr: float) -> None:
    """Real updates: AdamW on a policy gradient of random text with random advantages."""
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr)
    generator = torch.Generator().manual_seed(1)
    for _ in range(updates):
        ids = torch.randint(5, len(policy.tokenizer.hf_tokenizer), (4, 24), generator=generator)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        mask[:, 12:] = True
        chosen = policy.token_logprobs(ids, mask)[0]
        loss = -(chosen * torch.randn(chosen.shape, generator=generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def counter(server: RunningServer, name: str) -> float:
    """A number of the server's metrics, `vllm:name`."""
    text = httpx.get(f"{server.address}/metrics", timeout=60).text
    found = re.search(rf"^vllm:{name}{{.*}} (\S+)", text, re.M)
    return float(found[1]) if found else 0.0


def idle(server: RunningServer, seconds: float = 20.0) -> bool:
    """Whether the server has nothing to do, within some seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if counter(server, "num_requests_running") + counter(server, "num_requests_waiting") == 0:
            return True
        time.sleep(0.2)
    return False
