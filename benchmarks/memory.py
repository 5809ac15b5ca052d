"""The memory that a run plans against the peak that it reaches, on a CPU, for five shapes of run.

    python -m benchmarks.memory
    python -m benchmarks.memory --model models/smollm2-135m

Each shape runs in a process of its own. The first makes two steps. The others, which train a model of SmolLM2-135M's
shape with random weights or the model in a folder, make a rollout, measure its information gain, and update twice on as
many of its groups as fill two micro-batches: what two whole steps take, in less time. Every turn of theirs is a search
of the full length, so that episodes get as long as the settings allow. The peak is the resident memory of the whole
process, Python and its libraries included.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tyro

from benchmarks.measure import Line, peak_gigabytes

SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1_536, "num_attention_heads": 9, "num_key_value_heads": 3}
LAYERS, VOCABULARY = 30, 49_152
OBSERVATION = 80  # tokens
UPDATES = 2  # in the second, the moments of AdamW are there from the start


@dataclass(frozen=True)
class Shape:
    """A shape of run: options of sections of the configuration."""

    bundled: bool = False
    policy: dict[str, Any] = field(default_factory=dict)
    lora_rank: int = 0
    token_budget: int = 2_048


SHAPES = {
    "bundled policy, defaults": Shape(bundled=True),
    "SmolLM2-135M, float32": Shape(),
    "  with bfloat16 products": Shape(policy={"compute_dtype": "bfloat16"}),
    "  with LoRA of rank 16": Shape(lora_rank=16),
    "  with checkpointed activations, 8,192 tokens": Shape(policy={"gradient_checkpointing": True}, token_budget=8_192),
}


def lines(model: Path | None = None, only: tuple[str, ...] = ()) -> list[Line]:
    """Planned over measured, for each shape. `model`: folder of SmolLM2-135M; `only`: parts of the names of shapes."""
    chosen = {name: shape for name, shape in SHAPES.items() if not only or any(part in name for part in only)}
    context = multiprocessing.get_context("spawn")
    result = []
    with tempfile.TemporaryDirectory() as folder:
        if model is None:  # in a process of its own, so that it leaves no memory to those that are measured
            model = Path(folder) / "model"
            saving = context.Process(target=_save_model, args=(model,))
            saving.start()
            saving.join()
        for name, shape in chosen.items():
            here, there = context.Pipe()
            process = context.Process(target=_run, args=(there, shape, model), daemon=True)
            process.start()
            try:
                while not here.poll(1):
                    if not process.is_alive():
                        raise RuntimeError(f"{name}: its process exited; see its traceback above")
                planned, peak, detail = here.recv()
            finally:
                process.terminate()
                process.join()
            detail = f"planned {planned:.2f} GB, peak {peak:.2f} GB; {detail}"
            # Below 1, a run that was said to fit may not.
            result.append(Line(name, planned / peak, target=1.25, at_most=True, detail=detail))
    return result


def _save_model(folder: Path) -> None:
    from benchmarks.policies import random_policy

    random_policy(SMOLLM2, LAYERS, vocabulary=VOCABULARY).save(folder)


def _run(pipe: Connection, shape: Shape, model: Path) -> None:
    """Train; sends planned and reached gigabytes, and what was trained on."""
    from rich.console import Console

    from algorithms.common.memory.plan import plan_memory
    from algorithms.common.model.config import LoraConfig, PolicyConfig
    from algorithms.common.rollout.config import RolloutConfig
    from algorithms.common.rollout.environment import EnvConfig
    from algorithms.common.training.config import OptimizerConfig
    from algorithms.ig_grpo import IGGRPOConfig
    from benchmarks.policies import random_policy
    from benchmarks.rollout import LongPassages

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, retriever = IGGRPOConfig(run_dir=folder / "run"), None
        if not shape.bundled:
            # Of three passages, each a third of the length, it is shown one.
            retriever = LongPassages(random_policy("small", 1), 3 * OBSERVATION)
            config = IGGRPOConfig(
                run_dir=folder / "run",
                policy=PolicyConfig(
                    path=str(model), context_length=1_024, lora=LoraConfig(rank=shape.lora_rank), **shape.policy
                ),
                env=EnvConfig(top_k=1, max_searches=2, max_observation_tokens=OBSERVATION),
                rollout=RolloutConfig(questions_per_step=8, group_size=4),
                optimizer=OptimizerConfig(token_budget=shape.token_budget),
            )
        plan = plan_memory(config, needs_reference=False, needs_critic=False, eval_questions=0)
        plan.render(Console())
        tokens = _train(config, retriever, forced=not shape.bundled)
        pipe.send((plan.total / 1e9, peak_gigabytes(), tokens))


def _train(config: Any, retriever: Any, *, forced: bool) -> str:
    """Train; returns how long the trajectories were. `forced`: every turn is a search of the full length."""
    from algorithms.common.rollout.answer_scorer import measure_information_gain
    from algorithms.common.rollout.buffer import RolloutBuffer
    from algorithms.common.run.run import Run
    from algorithms.common.run.setup import make_torch_deterministic
    from algorithms.common.trainer import collect_batch
    from algorithms.common.training.policy_update import recompute_logprobs
    from algorithms.ig_grpo import IGGRPO
    from benchmarks.rollout import AlwaysSearches, FixedTurnEnd
    from benchmarks.training_step import update_policy

    make_torch_deterministic(config.seed)
    algorithm = IGGRPO(config)
    run = Run(algorithm, config, retriever)
    if forced:
        policy = run.sampler.policy
        policy.tokenizer = AlwaysSearches(policy.tokenizer.hf_tokenizer)
        run.sampler.turn_end = FixedTurnEnd(policy.tokenizer, run.protocol.stop_strings)
        run.sampler.turn_end.turn = config.rollout.max_new_tokens
    for step in range(1, UPDATES + 1):
        if step == 1 or not forced:
            buffer = collect_batch(run, algorithm, step)
            if not run.sampler.exact:
                recompute_logprobs(run.learner, buffer, config.rollout.temperature)
            measure_information_gain(buffer, run.information_gain(step, buffer.prefixes))
            lengths = [len(sequence.ids) for sequence in buffer.sequences]
            each = config.rollout.group_size * max(lengths)  # tokens of a group
            groups = -(-2 * config.optimizer.token_budget // each) if forced else len(buffer.groups)
            part = RolloutBuffer(buffer.groups[:groups])
            del buffer  # with the prefixes that it holds
        update_policy(run, part, algorithm.advantages(part), step)
    run.close()
    return f"{len(lengths)} trajectories of {sum(lengths) / len(lengths):,.0f} tokens"


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} {measured.detail}")
