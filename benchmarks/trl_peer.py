"""Rollouts and update against TRL's GRPOTrainer: the same model, prompts, sampling, optimizer; ratios of step times.

Two tasks of 16 questions times 8 episodes a step, one update each, beta 0, temperature 1, float32 on CPU:

- one turn: every episode is the prompt and exactly 32 tokens, on both sides. TRL forbids the end of sequence
  (`min_new_tokens`), ours has a policy that never ends a turn.
- multi-turn: episodes with up to four searches in the bundled world, turns of up to 32 tokens. TRL 1.16 can do this
  without vLLM: `environment_factory` makes an object per episode whose methods are tools, given a chat template that
  renders tool messages and a `response_template` that finds the calls (benchmarks/trl_driver.py has both). The tokens
  of a step are the policy's draws, so they differ a little between the sides; the ratio is of seconds per token
  that the policy wrote. An invalid turn is corrected by our environment and ends an episode in TRL.

TRL runs in a virtual environment of its own (about 1.5 GB), made once, and in a process of its own that waits
between its steps, so that the steps of both sides alternate. `python -m benchmarks.trl_peer` runs this alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.config import EnvConfig, OptimizerConfig
from algorithms.common.decoding import Decoder
from algorithms.common.policy import Policy, PolicyConfig
from algorithms.common.run import Run
from algorithms.common.trainer import collect_batch, describe, update
from algorithms.grpo import GRPO, GRPOConfig
from benchmarks.measure import Line, interleaved
from igsearch_env.protocol import STOP_TAGS
from igsearch_env.trajectory import Group
from igsearch_env.world.bundled import POLICY_FOLDER

ROOT = Path(__file__).parent.parent
# The torch and transformers of this environment, so that only the trainers differ.
REQUIREMENTS = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers")]
REQUIREMENTS += ["trl==1.16.0", "accelerate", "datasets", "bm25s", "gymnasium"]
INSTALL_SECONDS, STEP_SECONDS = 1_800, 600
MICRO_BATCHES = {"one turn": 1, "multi-turn": 4}  # of TRL's update, the faster of 1 and 4


class PeerError(RuntimeError):
    """TRL can't be installed or run here; the message says why."""


def peer_python(folder: Path) -> Path:
    """The interpreter of a virtual environment with TRL in it, made on first use."""
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if python.exists() and done.is_file() and done.read_text().split() == REQUIREMENTS:
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except subprocess.CalledProcessError as error:
            raise PeerError(f"{' '.join(error.cmd[1:4])} failed: {error.stderr.strip()[-400:]}") from error
        except (subprocess.TimeoutExpired, OSError) as error:
            raise PeerError(str(error)) from error
    (folder / ".gitignore").write_text("*\n")
    done.write_text("\n".join(REQUIREMENTS))
    return python


class Peer:
    """TRL in its own process; `step` runs one training step there. A context manager that ends it."""

    def __init__(self, python: Path, spec: dict[str, Any], folder: Path) -> None:
        path = folder / "spec.json"
        path.write_text(json.dumps(spec))
        self.errors = folder / "stderr.txt"
        self.reports: list[dict[str, float]] = []
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", "benchmarks.trl_driver", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )

    def __enter__(self) -> Peer:
        self.versions = ", ".join(f"{name} {number}" for name, number in self._answer().items())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def step(self) -> None:
        """One training step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.reports.append(self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        timer = threading.Timer(STEP_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            raise PeerError(f"the TRL process ended: {self.errors.read_text()[-800:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class FixedLength(Policy):
    """Writes until there is no room."""

    def ends_turn(self, ids: Any) -> bool:
        """Never."""
        return False


class Ours:
    """Our steps: what `algorithms.common.trainer.train` does, without its logs and checkpoints."""

    def __init__(self, run: Run, collect: Callable[[Run, GRPO, int], RolloutBuffer], config: GRPOConfig) -> None:
        self.run, self.collect, self.algorithm = run, collect, GRPO(config)
        self.reports: list[dict[str, float]] = []

    def step(self) -> None:
        """One training step."""
        number = len(self.reports) + 1
        buffer = self.collect(self.run, self.algorithm, number)
        advantages = self.algorithm.advantages(buffer)
        update(self.run, buffer, advantages, number)
        report = describe(buffer, advantages)
        self.reports.append({"tokens": int(buffer.policy_tokens.sum()), "reward": report["reward"]})


def one_turn(run: Run, algorithm: GRPO, step: int) -> RolloutBuffer:
    """`collect_batch` for episodes of one turn of fixed length."""
    rollout = run.config.rollout
    policy = FixedLength(run.policy.model, run.policy.tokenizer)
    questions = [question for question in run.questions(step) for _ in range(rollout.group_size)]
    episodes = [run.engine.begin(question) for question in questions]
    decoder = Decoder(
        policy,
        slots=len(episodes),
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        token_budget=rollout.token_budget,
        store=run.store,
    )
    slots = {}
    for number, episode in enumerate(episodes):
        episode.trajectory.prompt_ids = policy.encode_prompt(episode.trajectory.prompt)
        slots[decoder.begin(episode.trajectory.prompt_ids, np.random.default_rng([step, number]))] = episode
    decoder.read()
    while decoder.writing:
        for slot, completion in decoder.write():
            slots[slot].act(policy.decode(completion.ids))
            turn = slots[slot].trajectory.turns[0]
            turn.completion_ids, turn.logprobs = completion.ids, completion.logprobs
    size = rollout.group_size
    starts = range(0, len(episodes), size)
    return RolloutBuffer([Group(questions[i], [e.trajectory for e in episodes[i : i + size]]) for i in starts])


def lines(repeats: int, peers: Path | None = None) -> list[Line]:
    """One line a task; none, and the reason printed, where TRL can't be installed. `peers` holds its environment."""
    try:
        python = peer_python((peers or Path(__file__).parent / ".peers") / "trl")
        return [_line(task, python, repeats) for task in MICRO_BATCHES]
    except PeerError as error:
        print(f"TRL skipped: {error}")
        return []


def _line(task: str, python: Path, repeats: int) -> Line:
    single = task == "one turn"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = GRPOConfig(
            steps=repeats + 1,
            run_dir=folder / "run",
            policy=PolicyConfig(device="cpu"),
            optimizer=OptimizerConfig(warmup_steps=0),
        )
        run = Run("grpo", config)
        ours = Ours(run, one_turn if single else collect_batch, config)
        with Peer(python, _spec(run, folder, single, MICRO_BATCHES[task]), folder) as peer:
            times = interleaved({"trl": peer.step, "ours": ours.step}, repeats)
            versions = peer.versions
        run.log.close()
    taken = {side: statistics.median(values) for side, values in times.items()}
    tokens = {side: statistics.mean(r["tokens"] for r in s.reports[1:]) for side, s in (("trl", peer), ("ours", ours))}
    reward = {side: statistics.mean(r["reward"] for r in s.reports[1:]) for side, s in (("trl", peer), ("ours", ours))}
    rates = {
        side: [time / report["tokens"] for time, report in zip(times[side], s.reports[1:], strict=True)]
        for side, s in (("trl", peer), ("ours", ours))
    }
    return Line(
        f"GRPO step of TRL over ours, {task}",
        statistics.median(a / b for a, b in zip(rates["trl"], rates["ours"], strict=True)),
        detail=f"a step: {taken['trl']:.2f} s and {taken['ours']:.2f} s, {tokens['trl']:,.0f} and {tokens['ours']:,.0f} "
        f"written tokens, mean reward {reward['trl']:.2f} and {reward['ours']:.2f}; {versions}",
    )


def _spec(run: Run, folder: Path, single: bool, micro_batches: int) -> dict[str, Any]:
    """What the driver is to do."""
    config, rollout, optimizer = run.config, run.config.rollout, run.config.optimizer
    questions = [question for step in range(1, config.steps + 1) for question in run.questions(step)]
    return {
        "policy": str(POLICY_FOLDER),
        "folder": str(folder / "trl"),
        "prompts": [run.protocol.question_prompt(question.text) for question in questions],
        "answers": [list(question.golden_answers) for question in questions],
        "questions": rollout.questions,
        "group_size": rollout.group_size,
        "new_tokens": rollout.max_new_tokens,
        "max_completion": run.policy.context_length - rollout.max_new_tokens,
        "stop_ids": [run.policy.encode(tag)[0] for tag in STOP_TAGS],
        "searches": 0 if single else config.env.max_searches,
        "top_k": config.env.top_k,
        "micro_batches": micro_batches,
        "lr": optimizer.lr,
        "betas": [optimizer.beta1, optimizer.beta2],
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
    }


if __name__ == "__main__":
    for line in lines(5):
        print(f"{line.name}: {line.value:.2f}{line.unit} ({line.detail})")
