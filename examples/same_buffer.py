"""Compute the advantages of all algorithms on one buffer: side by side, turn by turn, and where they differ.

    python examples/same_buffer.py --save buffer.jsonl.gz                  collect with the bundled policy
    python examples/same_buffer.py --buffer buffer.jsonl.gz --show 1       inspect a saved buffer, without a policy
    python examples/same_buffer.py --attempts 3 --output numbers.json      several attempts per episode, as MR-Search
    python examples/same_buffer.py --policy runs/ig_grpo-seed0/policy --page credit.html   episodes of a trained policy

The collected rollouts are the first groups of the first step of a training run with the same seed. The algorithms use
their default options. An advantage is the mean over a turn's tokens (IG-GRPO: over its query tokens, if it has any).
Information gain, in nats, is measured twice: over random evidence (IG-GRPO) and over the previous turn (IGPO).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.report.page import write
from algorithms.common.report.trajectory_page import fitting_page
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.environment import EnvConfig, make_questions, make_retriever, make_rules
from algorithms.common.run.recorded_trajectories import load_recorded, record_trajectories
from algorithms.common.run.setup import information_gain_seed, questions_of_step
from algorithms.comparison.advantages import all_advantages
from algorithms.comparison.gains import Gains, measured_gains, set_gains, store_gains, stored_gains
from algorithms.comparison.registry import ALGORITHMS
from algorithms.comparison.same_buffer import analyse
from algorithms.comparison.same_buffer_tables import print_report
from igsearch_env.errors import ConfigurationError, IGSearchError, check_range
from igsearch_env.stepper import EpisodeStepper
from retrievers import Retriever
from retrievers.program import ends_in_one_line

WIDTH = 150  # of the tables
MAX_SHOWN = 500  # trajectories on the page


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    buffer: Path | None = None
    """File of a saved buffer (RolloutBuffer.save); None: collect a new one."""
    policy: str | None = None
    """`bundled` (default when collecting), a folder or a model name. With a buffer: measures both gains again."""
    questions_per_step: int = 8
    """Number of questions to collect, from the training split."""
    group_size: int = 8
    """Rollouts per question."""
    attempts: int = 1
    """Attempts per episode; the last one counts."""
    seed: int = 0
    """Random seed."""
    questions: tuple[str, ...] = ("bundled",)
    """Sources of the questions: files, or `bundled`."""
    corpus: str = "bundled"
    """A corpus file, a folder that BM25Retriever.save wrote, or `bundled`."""
    protocol: str = "search_r1"
    """Tag family: search_r1 or autorefine."""
    prompt: str = "bare"
    """Prompt: search_r1, autorefine, bare, a template with {question}, or @FILE."""
    show: int = 4
    """Number of groups to print turn by turn."""
    save: Path | None = None
    """File to write the buffer to, with both information gains."""
    output: Path | None = None
    """JSON file to write all numbers to."""
    page: Path | None = None
    """HTML file to write a page to, with every token's advantage under every algorithm (its credit view shows them
    side by side). The tokens of a saved buffer are decoded with the bundled policy's tokenizer or that of --policy:
    name the policy that generated them."""


def main(args: Args) -> None:
    """Collect or load a buffer, compute the advantages, print and write them."""
    buffer = None if args.buffer is None else load_buffer(args.buffer)
    if buffer is not None and args.policy is None:
        gains = stored_gains(buffer)
    else:
        check_range("seed", args.seed, 0)
        files, attempts = args.questions, args.attempts
        env = EnvConfig(
            questions=files, corpus=args.corpus, attempts=attempts, protocol=args.protocol, prompt=args.prompt
        )
        policy, retriever = Policy.load(PolicyConfig(args.policy or "bundled")), make_retriever(env.corpus)
        buffer = buffer or collect_buffer(args, env, policy, retriever)
        scorer, protocol = PolicyScorer(policy), make_rules(env, policy.tokenizer).protocol
        gains = measured_gains(buffer, scorer, protocol, retriever, information_gain_seed(args.seed, step=1))
    report = analyse(buffer, gains)
    print_report(Console(width=max(WIDTH, Console().width)), report, args.show)
    if args.save is not None:
        store_gains(buffer, gains)
        buffer.save(args.save)
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.page is not None:
        write_page(args.page, buffer, gains, Policy.load(PolicyConfig(args.policy or "bundled")))


def write_page(path: Path, buffer: RolloutBuffer, gains: dict[str, Gains], policy: Policy) -> None:
    """Write the trajectory page, on which the algorithm can be selected."""
    advantages = all_advantages(buffer, gains)
    set_gains(buffer, gains["random"])
    with TemporaryDirectory() as folder:
        recorded = Path(folder) / "recorded.json.gz"
        reads = {name: entry.reads for name, entry in ALGORITHMS.items() if entry.reads is not None}
        other = {name: gains[read] for name, read in reads.items() if read != "random"}
        record_trajectories(recorded, buffer, advantages, policy.tokenizer, gains=other, limit=MAX_SHOWN)
        write(path, fitting_page([load_recorded(recorded)], "every algorithm on one buffer"))


# ---------------------------------------------------------------- the buffer


def load_buffer(path: Path) -> RolloutBuffer:
    """Load a saved buffer. Raises `ConfigurationError` if it is missing, of another version or not trainable."""
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; give a file written by RolloutBuffer.save")
    try:
        buffer = RolloutBuffer.load(path)
        buffer.check_trainable()
    except RolloutBufferError as error:
        raise ConfigurationError(str(error)) from error
    return buffer


def collect_buffer(args: Args, env: EnvConfig, policy: Policy, retriever: Retriever) -> RolloutBuffer:
    """Collect the first groups of the first step of a training run, with the same questions and random draws."""
    rollout = RolloutConfig(args.questions_per_step, args.group_size)
    questions = make_questions(env.questions, "train")
    check_range("questions_per_step", args.questions_per_step, 1, len(questions))
    chosen = questions_of_step(questions, args.questions_per_step, seed=args.seed, step=1)
    rules = make_rules(env, policy.tokenizer)
    stepper = EpisodeStepper(chosen, retriever, None, rules)
    turn_end = TurnEnd(policy.tokenizer, rules.protocol.stop_strings)
    slots, longest = args.questions_per_step * args.group_size, rollout.max_new_tokens
    decoder = Decoder(policy, turn_end, slots=slots, max_new_tokens=longest, temperature=rollout.temperature)
    buffer = collect(decoder, stepper, chosen, group_size=args.group_size, seed=(args.seed, 1, 0))
    buffer.check_trainable()
    return buffer


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError):
        main(parse_options(Args, description=__doc__))
