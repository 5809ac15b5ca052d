"""Rollouts and update compared with TRL's GRPOTrainer: ratios of step times with equal model, prompts and optimizer.

    python -m benchmarks.trl_peer       installs TRL in benchmarks/.peers/trl on first use (about 1.5 GB)
    python -m benchmarks.trl_peer --policy FOLDER --bfloat16 --questions 8 --group 4    another model, one turn only

Two tasks, 16 questions times 8 episodes per step, one update each, temperature 1, beta 0, float32 on CPU:

- one turn: a prompt and exactly 32 tokens on both sides. TRL suppresses the end of sequence; our policy ends no turn.
  Our advantages are replaced by 1 and -1: otherwise our update would leave out groups with equal rewards, as TRL's
  does not.
- multi-turn: up to four searches in the bundled world and turns of up to 32 tokens. TRL 1.16 supports this without
  vLLM: `environment_factory` creates an object per episode whose methods are tools, given a chat template that renders
  tool messages and a `response_template` that finds calls (both are in trl_driver.py). Completions are sampled, so the
  sides differ slightly in tokens, and the ratio is that of seconds per generated token. A turn with neither search nor
  answer, fewer than 1 in 100, gets a correction from our environment and ends the episode in TRL.

TRL runs in a separate process that waits between its steps, so the steps of both sides alternate.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from algorithms.common.model.config import Dtype, PolicyConfig
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.run.run import Run
from algorithms.common.run.setup import make_torch_deterministic, questions_of_step
from algorithms.common.trainer import collect_batch
from algorithms.common.training.config import OptimizerConfig
from algorithms.grpo import GRPO, GRPOConfig
from benchmarks.measure import Line, interleaved, ratio
from benchmarks.training_step import update_policy
from igsearch_env.protocols import Answer, make_protocol, parse
from igsearch_env.world.bundled import POLICY_FOLDER

# The versions of torch and transformers of this environment, so that only the trainers differ.
REQUIREMENTS = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers")]
REQUIREMENTS += ["trl==1.16.0", "accelerate", "datasets", "bm25s", "gymnasium"]
INSTALL_SECONDS, STEP_SECONDS = 1_800, 900
MICRO_BATCHES = {"one turn": 1, "multi-turn": 4}  # of TRL's update; 1, 2, 4 and 8 take about equally long

Report = dict[str, Any]


def lines(
    repeats: int = 5,
    peers: Path | None = Path(__file__).parent / ".peers",
    policy: str = "bundled",
    bfloat16: bool = False,
    questions: int = 16,
    group: int = 8,
) -> list[Line]:
    """One line per task from `repeats` steps of each side; none, with the reason printed, if TRL can't be installed.

    Args:
        repeats: steps of each side.
        peers: folder for TRL's virtual environment; None skips the comparison.
        policy: model to train; another one than the bundled policy has one task, as it may not search.
        bfloat16: train float32 weights with bfloat16 products on both sides.
        questions: prompts of a step.
        group: completions of a prompt.
    """
    dtype: Dtype | None = "bfloat16" if bfloat16 else None
    config = GRPOConfig(
        repeats + 1,
        policy=PolicyConfig(policy, device="cpu", compute_dtype=dtype),
        rollout=RolloutConfig(questions_per_step=questions, group_size=group, dtype=dtype),
        optimizer=OptimizerConfig(warmup_steps=0),
    )
    tasks = [task for task in MICRO_BATCHES if policy == "bundled" or task == "one turn"]
    try:
        python = install(peers / "trl") if peers is not None else None
        return [_line(task, python, repeats, config) for task in tasks if python is not None]
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        print(f"TRL is skipped: {error}", file=sys.stderr)
        return []


def install(folder: Path) -> Path:
    """The Python of a virtual environment with TRL, created on first use."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed.txt"
    if done.is_file() and done.read_text().split() == REQUIREMENTS:
        return python
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *REQUIREMENTS]):
        run = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {run.stderr.strip()[-300:]}")
    done.write_text("\n".join(REQUIREMENTS))
    return python


@contextmanager
def trl(python: Path, spec: dict[str, Any], folder: Path) -> Iterator[tuple[Report, Callable[[], Report]]]:
    """Yields the versions of TRL's side, and a function that makes it do one training step."""
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [str(python), "-m", "benchmarks.trl_driver", str(folder / "spec.json")]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    pipe, root = subprocess.PIPE, Path(__file__).parent.parent
    with (
        (folder / "errors.txt").open("w+") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environ, cwd=root) as process,
    ):

        def ask(request: str) -> Report:
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(STEP_SECONDS, process.kill)
            timer.daemon = True
            timer.start()
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
            timer.cancel()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"its process stopped: {errors.read().strip()[-800:]}")
            return dict(json.loads(line))

        try:
            yield ask(""), lambda: ask("\n")
        finally:
            process.kill()


class Unending(TurnEnd):
    """Never ends a turn before the maximum length."""

    def is_over(self, ids: Sequence[int]) -> bool:
        """Always False."""
        return False


class Answering(PolicyTokenizer):
    """Makes every turn an answer, so that an episode ends with its first turn."""

    def decode(self, ids: Sequence[int]) -> str:
        """The decoded text if it is an answer, else an empty answer."""
        text = super().decode(ids)
        return text if isinstance(parse(text), Answer) else make_protocol().write(Answer(""))


def ours(run: Run, algorithm: GRPO, step: int, *, all_tokens: bool) -> Report:
    """One step of `algorithms.common.trainer.train`, without logging; `all_tokens`: each has an advantage."""
    buffer = collect_batch(run, algorithm, step)
    advantages = algorithm.advantages(buffer)
    if all_tokens:
        advantages = np.where(np.arange(len(advantages)) % 2, 1, -1).astype(np.float32)
    update_policy(run, buffer, advantages, step)
    return {"tokens": int(buffer.policy_tokens.sum()), "reward": float(buffer.outcomes.mean())}


def _line(task: str, python: Path, repeats: int, config: GRPOConfig) -> Line:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = replace(config, run_dir=folder / "run")
        algorithm = GRPO(config)
        make_torch_deterministic(config.seed)
        run = Run(algorithm, config)
        if task == "one turn":
            run.policy.tokenizer = Answering(run.policy.tokenizer.hf_tokenizer)
            run.sampler.policy.tokenizer = run.policy.tokenizer  # a copy in another precision decodes
            run.sampler.turn_end = Unending(run.policy.tokenizer, run.protocol.stop_strings)
        reports: dict[str, list[Report]] = {"trl": [], "ours": []}
        with closing(run), trl(python, _spec(run, folder, task), folder) as (versions, step):
            steps = {
                "trl": lambda: reports["trl"].append(step()),
                "ours": lambda: reports["ours"].append(
                    ours(run, algorithm, len(reports["ours"]) + 1, all_tokens=task == "one turn")
                ),
            }
            times = interleaved(steps, repeats)
    per_token, sides = {}, []
    for side, (_warm_up, *rest) in reports.items():
        tokens, rewards = [report["tokens"] for report in rest], [report["reward"] for report in rest]
        per_token[side] = [taken / count for taken, count in zip(times[side], tokens, strict=True)]
        sides.append(
            f"{side} {statistics.median(times[side]):.2f} s, {statistics.mean(tokens):,.0f} generated tokens, "
            f"mean reward {statistics.mean(rewards):.2f}"
        )
    detail = "; ".join([*sides, *(f"{name} {number}" for name, number in versions.items())])
    value = ratio(per_token["trl"], per_token["ours"])
    policy = "" if config.policy.path == "bundled" else f", {Path(config.policy.path).name}"
    return Line(f"GRPO step: TRL's time over ours, {task}{policy}", value, detail=f"per step: {detail}")


def _spec(run: Run, folder: Path, task: str) -> dict[str, Any]:
    """The task of TRL's side: our configuration, and the prompts of every step."""
    config = run.config
    questions = [
        question
        for step in range(1, config.steps + 1)
        for question in questions_of_step(
            run.train_questions, config.rollout.questions_per_step, seed=config.seed, step=step
        )
    ]
    return {
        "policy": str(POLICY_FOLDER) if config.policy.path == "bundled" else config.policy.path,
        "bfloat16": config.policy.compute_dtype == "bfloat16",
        "folder": str(folder / "trl"),
        "threads": torch.get_num_threads(),
        "prompts": [run.protocol.question_prompt(question.text) for question in questions],
        "answers": [list(question.golden_answers) for question in questions],
        "rollout": asdict(config.rollout),
        "optimizer": asdict(config.optimizer),
        "searches": 0 if task == "one turn" else config.env.max_searches,
        "top_k": config.env.top_k,
        "max_completion": run.policy.context_length - config.rollout.max_new_tokens,
        "stop_ids": [run.policy.tokenizer.encode(text)[0] for text in run.protocol.stop_strings],
        "micro_batches": MICRO_BATCHES[task],
    }


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} {measured.detail}")
