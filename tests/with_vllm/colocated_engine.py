"""python colocated_engine.py RESULT: what `rollout.engine=vllm` does with the vLLM that is installed."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import borrowed_packages  # noqa: F401 # before others
import numpy as np
import torch

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.engines.base import EngineError, TurnRequest
from algorithms.common.rollout.probe import difference
from algorithms.common.rollout.sampler import Sampler
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_retriever, bundled_world

UPDATES = 10
PROTOCOL = make_protocol(prompt="bare")


def load(path: Path | str, **options: Any) -> Policy:
    return Policy.load(PolicyConfig(path=str(path), device="cpu", **options))


def started(policy: Policy, **options: Any) -> Sampler:
    config = RolloutConfig(engine="vllm", gpu_memory_utilization=0.3, max_new_tokens=24, **options)
    sampler = Sampler(policy, config, PROTOCOL.stop_strings, Processes())
    sampler.start()
    return sampler


def untied(folder: Path) -> Path:
    """The bundled policy with an output layer of its own."""
    policy = load(POLICY_FOLDER)
    policy.model.config.tie_word_embeddings = False
    head = policy.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(1.1 * head.weight.detach())
    policy.model.save_pretrained(folder)
    policy.tokenizer.hf_tokenizer.save_pretrained(folder)
    return folder


def update(policy: Policy, seed: int, scale: float = 0.01) -> None:
    """Change every trained weight."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=random)


def apart(sampler: Sampler) -> float:
    """Largest difference of log-probs between engine and policy."""
    assert sampler.engine is not None
    return difference(sampler.engine, sampler.policy, sampler.turn_end).most


def own_logprobs(policy: Policy, prompt: Sequence[int], ids: Sequence[int], temperature: float) -> Any:
    row = torch.tensor([[*prompt, *ids]])
    mask = torch.zeros(row.shape, dtype=torch.bool)
    mask[0, len(prompt) :] = True
    with torch.no_grad():
        return policy.token_logprobs(row, mask, temperature)[0].numpy()


def after_updates(sampler: Sampler) -> list[float]:
    found = [apart(sampler)]
    for number in range(UPDATES):
        update(sampler.trained, number)
        sampler.sync_weights()
        found.append(apart(sampler))
    return found


def rollout(sampler: Sampler, questions: int, temperature: float) -> list[Trajectory]:
    """Two episodes of each of the first test questions."""
    chosen = bundled_world().questions["test"][:questions]
    stepper = EpisodeStepper(chosen, bundled_retriever(), None, EpisodeRules(max_searches=3, protocol=PROTOCOL))
    decoder = sampler.decoder(8, temperature)
    return collect(decoder, stepper, chosen, group_size=2, seed=(5,)).trajectories


def written(trajectories: Sequence[Trajectory]) -> list[list[list[int]]]:
    return [[list(turn.completion_ids) for turn in t.turns] for t in trajectories]


def rollouts(sampler: Sampler) -> dict[str, Any]:
    first, tempered = rollout(sampler, 4, 1.0), rollout(sampler, 4, 0.6)
    most, ends = 0.0, []
    for temperature, trajectories in ((1.0, first), (0.6, tempered)):
        for t in trajectories:
            context = list(t.prompt_ids)
            for turn in t.turns:
                expected = own_logprobs(sampler.policy, context, turn.completion_ids, temperature)
                most = max(most, float(np.abs(expected - np.array(turn.logprobs)).max()))
                ends.append(sampler.turn_end.is_over(turn.completion_ids) or len(turn.completion_ids) == 24)
                context += [*turn.completion_ids, *turn.observation_ids]
    turns = written(first)
    return {
        "log-probs": most,
        "turns that end as they should": sum(ends) / len(ends),
        "searches": sum(turn.is_search for t in first for turn in t.turns),
        "answers": sum(t.turns[-1].text.endswith("</answer>") for t in first),
        "same again": written(rollout(sampler, 4, 1.0)) == turns,
        "siblings differ": sum(turns[i] != turns[i + 1] for i in range(0, len(turns), 2)),
        "same in a wider batch": written(rollout(sampler, 1, 1.0)) == turns[:2],
    }


def streaming(sampler: Sampler) -> dict[str, Any]:
    engine: Any = sampler.engine
    prompt = sampler.policy.tokenizer.encode("Where was Zose Drartov born?\n")
    asked = [TurnRequest(n, prompt, n, length, 1.0, episode=n) for n, length in enumerate((3, 1, 2))]

    def refused(requests: Sequence[TurnRequest]) -> str:
        try:
            engine.submit(requests)
            engine.finished()
        except EngineError as error:
            return str(error)
        return ""

    engine.submit(asked)
    found: dict[str, Any] = {"order": [[key for key, _ in engine.finished()] for _ in range(4)]}
    engine.submit(asked)
    engine.finished(timeout=0)
    engine.cancel()
    found["after a cancel"] = [len(engine.finished()), engine.llm.reset_prefix_cache()]
    found["too long"] = refused([*asked, TurnRequest(9, (7,) * 2_000, 1, 5, 1.0, episode=9)])
    core = engine.llm.llm_engine.engine_core
    output, core.get_output = core.get_output, broken
    found["broken"] = refused(asked)
    core.get_output = output
    found["in flight after it"] = engine.llm.llm_engine.has_unfinished_requests()
    engine.submit(asked[:1])
    found["and then"] = [key for key, _ in engine.finished()]
    return found


def broken() -> Any:
    raise RuntimeError("a step failed")


def sleeping(sampler: Sampler) -> dict[str, Any]:
    """vLLM ignores sleep on a CPU, except that it pauses."""
    engine: Any = sampler.engine
    engine._can_sleep = True
    sampler.sleep()
    found: dict[str, Any] = {"asleep": engine.llm.llm_engine.is_sleeping()}
    try:
        apart(sampler)
    except EngineError as error:
        found["refuses"] = str(error)
    update(sampler.trained, 77)
    sampler.sync_weights()
    found["awake"] = not engine.llm.llm_engine.is_sleeping()
    found["apart"] = apart(sampler)
    return found


def prefix_cache(sampler: Sampler) -> dict[str, Any]:
    """How many tokens of a long prompt are read from the cache: first, again, and after an update."""
    engine: Any = sampler.engine
    words = sampler.policy.tokenizer.encode("Where was Zose Drartov born? Who wrote it?\n")
    prompt = (words * 100)[:700]
    step, cached, wrong = engine.llm.llm_engine.step, [], []

    def counting() -> Any:
        outputs = step()
        cached.extend(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    engine.llm.llm_engine.step = counting
    for updated in (False, False, True, False):
        if updated:
            update(sampler.trained, 99)
            sampler.sync_weights()
            cached.clear()
        (turn,) = engine.complete([prompt], [3], max_new_tokens=8, temperature=1.0)
        wrong.append(float(np.abs(own_logprobs(sampler.policy, prompt, turn.ids, 1.0) - turn.logprobs).max()))
    engine.llm.llm_engine.step = step
    return {"cached after the update": cached, "log-probs": max(wrong)}


def main() -> None:
    found: dict[str, Any] = {}
    sampler = started(load(POLICY_FOLDER))
    state = torch.random.get_rng_state()
    found["rollouts"] = rollouts(sampler)
    found["streaming"] = streaming(sampler)
    found["prefix cache"] = prefix_cache(sampler)
    found["sleeping"] = sleeping(sampler)
    found["random state is kept"] = torch.equal(state, torch.random.get_rng_state())
    found["tied"] = after_updates(sampler)
    sampler.close()
    with tempfile.TemporaryDirectory() as folder:
        sampler = started(load(untied(Path(folder))))
        found["untied"] = after_updates(sampler)
        sampler.close()
    sampler = started(load(POLICY_FOLDER, lora=LoraConfig(rank=4)))
    found["adapter"] = after_updates(sampler)[:3]
    sampler.close()
    sampler = started(load(POLICY_FOLDER), dtype="bfloat16")
    found["bfloat16"] = after_updates(sampler)
    sampler.close()
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
