"""What the algorithms make of one buffer: their advantages side by side, turn by turn, and where they differ.

    python examples/same_buffer.py --save buffer.jsonl.gz                  collect with the bundled policy
    python examples/same_buffer.py --buffer buffer.jsonl.gz --show 1       look at a saved one, without any policy
    python examples/same_buffer.py --attempts 3 --output numbers.json      several attempts an episode, as MR-Search

What is collected is the beginning of the first step of a training run with the same seed. The algorithms have their
default options. An advantage is the mean over a turn's tokens (IG-GRPO: over its query's tokens, where it has any).
Information gain, in nats, is measured twice: over random evidence (IG-GRPO) and over the turn before (IGPO).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import PolicyConfig
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.report.page import write
from algorithms.common.report.trajectory_page import fitting_page
from algorithms.common.rollout.answer_scorer import PolicyScorer, measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.environment import EnvConfig, make_questions, make_retriever, make_rules
from algorithms.common.rollout.sampler import RolloutConfig
from algorithms.common.run.recorded_trajectories import load_recorded, record_trajectories
from algorithms.comparison.registry import ALGORITHMS, BASELINES, READS
from algorithms.comparison.same_buffer import Gains, all_advantages, analyse, set_gains, signs, turns_of
from igsearch_env.errors import IGSearchError, check_range
from igsearch_env.information_gain import InformationGain
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Gain
from retrievers import Retriever, RetrieverError

WIDTH = 150  # of the tables
MAX_SHOWN = 500  # trajectories on the page
STORED = "gains_over_previous"  # in the metadata of a saved buffer, whose turns hold the gains over random evidence


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    buffer: Path | None = None
    """A file that RolloutBuffer.save wrote; None: collect one."""
    policy: str | None = None
    """`bundled` (default when collecting), a folder or a model name. With a buffer: measures both gains anew."""
    questions_per_step: int = 8
    """Questions to collect, of the training split."""
    group_size: int = 8
    """Rollouts of each question."""
    attempts: int = 1
    """Attempts in an episode; the last one counts."""
    seed: int = 0
    """Decides every draw."""
    questions: tuple[str, ...] = ("bundled",)
    """Where the questions come from: files, or `bundled`."""
    corpus: str = "bundled"
    """A corpus file, a folder that BM25Retriever.save wrote, or `bundled`."""
    protocol: str = "search_r1"
    """Tag family: search_r1 or autorefine."""
    prompt: str = "bare"
    """Prompt: search_r1, autorefine, bare, a template with {question}, or @FILE."""
    show: int = 4
    """Groups to print turn by turn."""
    save: Path | None = None
    """Write the buffer here, with both information gains."""
    output: Path | None = None
    """Write every number here, as JSON."""
    page: Path | None = None
    """Write a page here: every token's advantage by every algorithm. Of a buffer, the bundled policy's tokens or
    those of --policy are shown: name the one that wrote it."""


def main(args: Args) -> None:
    """Collect or load, compute, print, write."""
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
        gains = measured_gains(buffer, env, policy, retriever, args.seed)
    report = analyse(buffer, gains)
    print_report(Console(width=max(WIDTH, Console().width)), report, args.show)
    if args.save is not None:
        set_gains(buffer, gains["random"])
        buffer.metadata[STORED] = [g and [g.value, g.logprob_real, g.logprob_baseline] for g in gains["previous"]]
        buffer.save(args.save)
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.page is not None:
        write_page(args.page, buffer, gains, Policy.load(PolicyConfig(args.policy or "bundled")))


def write_page(path: Path, buffer: RolloutBuffer, gains: dict[str, Gains], policy: Policy) -> None:
    """The trajectory page, with every algorithm to switch between."""
    advantages = all_advantages(buffer, gains)
    set_gains(buffer, gains["random"])
    with TemporaryDirectory() as folder:
        recorded = Path(folder) / "recorded.json.gz"
        other = {name: gains[read] for name, read in READS.items() if read != "random"}
        record_trajectories(recorded, buffer, advantages, policy.tokenizer, gains=other, limit=MAX_SHOWN)
        write(path, fitting_page([load_recorded(recorded)], "every algorithm on one buffer"))


# ---------------------------------------------------------------- the buffer and its information gains


def load_buffer(path: Path) -> RolloutBuffer:
    """A saved buffer. Raises `RolloutBufferError` if it is missing, of another version or has nothing to teach."""
    if not path.is_file():
        raise RolloutBufferError(f"{path}: no such file; give one that RolloutBuffer.save wrote")
    buffer = RolloutBuffer.load(path)
    buffer.check_trainable()
    return buffer


def collect_buffer(args: Args, env: EnvConfig, policy: Policy, retriever: Retriever) -> RolloutBuffer:
    """The first groups of the first step of a training run: its questions, its draws."""
    rollout = RolloutConfig(args.questions_per_step, args.group_size)
    questions = make_questions(env.questions, "train")
    check_range("questions_per_step", args.questions_per_step, 1, len(questions))
    order = np.random.default_rng([args.seed, 0, 3]).permutation(len(questions))
    chosen = [questions[place] for place in order[: args.questions_per_step]]
    rules = make_rules(env, policy.tokenizer)
    stepper = EpisodeStepper(chosen, retriever, None, rules)
    turn_end = TurnEnd(policy.tokenizer, rules.protocol.stop_strings)
    slots, longest = args.questions_per_step * args.group_size, rollout.max_new_tokens
    decoder = Decoder(policy, turn_end, slots=slots, max_new_tokens=longest, temperature=rollout.temperature)
    buffer = collect(decoder, stepper, chosen, group_size=args.group_size, seed=(args.seed, 1, 0))
    buffer.check_trainable()
    return buffer


def measured_gains(
    buffer: RolloutBuffer, env: EnvConfig, policy: Policy, retriever: Retriever, seed: int
) -> dict[str, Gains]:
    """The information gains by a policy, over either baseline."""
    scorer, protocol = PolicyScorer(policy), make_rules(env, policy.tokenizer).protocol
    gains = {}
    for baseline, config in BASELINES.items():
        set_gains(buffer, [None] * len(turns_of(buffer)))
        # The seed, too, is that of the first step of a training run.
        measure_information_gain(buffer, InformationGain(config, scorer, protocol, retriever, seed * 1_000_003 + 1))
        gains[baseline] = [turn.gain for turn in turns_of(buffer)]
    return gains


def stored_gains(buffer: RolloutBuffer) -> dict[str, Gains]:
    """The information gains that a saved buffer holds; None where it holds none."""
    held = [turn.gain for turn in turns_of(buffer)]
    previous: Gains = [row and Gain(*row) for row in buffer.metadata.get(STORED, ())]
    # Only the gain over random evidence names its evidences.
    return {
        "random": [gain if gain and gain.baseline_evidences else None for gain in held],
        "previous": previous or [None if gain and gain.baseline_evidences else gain for gain in held],
    }


# ---------------------------------------------------------------- what is printed


def print_report(console: Console, report: dict[str, Any], show: int) -> None:
    """Everything; turn by turn for the first `show` groups."""
    for group, question in enumerate(report["questions"][:show]):
        print_group(console, question, [row for row in report["turns"] if row["group"] == group])
    if show > 0:
        console.print(
            "* One algorithm rewards it, another punishes it (R++, R++base and PPO, which whiten, not counted)."
        )
    print_algorithms(console, report["algorithms"])
    for note in report["notes"]:
        console.print(f"note: {note}")
    print_gains(console, report["information_gain"])
    for kind, alone in report["anchors_alone"].items():
        shares = f"{alone['all']:.1%} of turns, {shown(alone['later'], '.1%')} of those after the first"
        console.print(f"GiGPO, {kind} anchors: alone are {shares}")
    groups = report["groups"]
    shares = f"all fail {groups['all_fail']:.1%}, all succeed {groups['all_succeed']:.1%}"
    console.print(f"groups with equal outcomes: {groups['all_equal']:.1%} of {groups['count']} ({shares})")


def print_group(console: Console, question: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """A group, one line for each turn; disputed ones are bold and have a star."""
    title = f"{question[0]} ({' | '.join(question[1:])})"
    table = make_table(
        escape(title), "", "written", "outcome", "IG", *(ALGORITHMS[name][0] for name in rows[0]["advantage"])
    )
    table.columns[1].justify, table.columns[1].max_width = "left", 34
    for row, following in zip_longest(rows, rows[1:]):
        last = following is None or following["turn"] == 0
        table.add_row(
            f"{row['episode'] + 1}.{row['turn'] + 1}{' *' if row['disputed'] else ''}",
            escape(row["written"]),
            f"{row['outcome']:.2f}" if last else "",
            shown(row["gain"]["random"], "+.2f", ""),
            *map(coloured, row["advantage"].values()),
            style="bold" if row["disputed"] else None,
            end_section=last,
        )
    console.print(table)


def print_algorithms(console: Console, algorithms: dict[str, dict[str, Any]]) -> None:
    """A row for each algorithm, then a warning for each that says what another one says."""
    heads = ("tokens at 0", "groups at 0", "mean |A|", "sign not GRPO's", "opposite sign", "correlation with GRPO")
    table = make_table("algorithms", "", *heads)
    for name, row in algorithms.items():
        shares = [f"{row[key]:.1%}" for key in ("zero_tokens", "zero_groups", "sign_differs", "sign_opposite")]
        table.add_row(name, *shares[:2], f"{row['mean_abs']:.3f}", *shares[2:], shown(row["correlation"], ".3f"))
    console.print(table)
    for name, row in algorithms.items():
        alike = [f"{row['like_grpo']} to grpo"] if row["like_grpo"] else []
        alike += [f"equal to {other}" for other in row["same_as"] if other != "grpo"]
        if alike:
            why = f" ({row['why']})" if row["why"] else ""
            console.print(f"[yellow]warning: {name} is {', '.join(alike)}{why}[/yellow]")


def print_gains(console: Console, statistics: dict[str, Any]) -> None:
    """Information gain over either baseline."""
    keys = ("mean", "variance", "min", "max", "positive", "dead_zone")
    table = make_table("information gain, nats", "over", "search", "count", *keys)
    for baseline, found in statistics.items():
        for which, row in found["searches"].items():
            values = [shown(row.get(key), ".1%" if key in ("positive", "dead_zone") else ".3f") for key in keys]
            table.add_row(baseline, which, str(row["count"]), *values)
    console.print(table)
    for baseline, found in statistics.items():
        parts = [f"{name.replace('_', ' ')} {shown(r, '.3f')}" for name, r in found["correlation_with_outcome"].items()]
        console.print(f"an episode's gain over {baseline} and its outcome, correlation: {', '.join(parts)}")


def make_table(title: str, first: str, *heads: str) -> Table:
    """A table whose columns, but the first, stand right."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head.replace("_", " "), justify="right", no_wrap=True)
    return table


def coloured(advantage: float) -> str:
    """An advantage in the colour of its sign."""
    sign = int(signs(advantage))
    return f"[{'green' if sign > 0 else 'red'}]{advantage:+.3f}[/]" if sign else "[dim]0[/dim]"


def shown(value: float | None, form: str, missing: str = "-") -> str:
    """A number in a format."""
    return missing if value is None else format(value, form)


if __name__ == "__main__":
    try:
        main(parse_options(Args, description=__doc__))
    except (IGSearchError, RetrieverError, RolloutBufferError, OSError) as error:
        sys.exit(f"error: {error}")
