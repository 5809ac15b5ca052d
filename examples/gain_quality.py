"""How well does information gain separate useful from useless searches? Measured on the bundled world's ground truth.

    python examples/gain_quality.py --policies bundled runs/cold runs/ig_grpo-seed0/policy

A search is useful if it finds the passage of the next hop of its question. For each policy and each measure of a
search, this prints the probability that a useful search has a higher value than a useless one (AUC; 0.5 is chance),
over all searches and among siblings (each value minus the mean over the same search of the question's rollouts).
Searches are grouped by their purpose: the only hop, a bridge (an entity that the answer depends on), or the last of
several hops. The outcome of the episode, the only signal of GRPO, is measured in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.evaluation.auc import auc
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.answer_scorer import PolicyScorer, measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from igsearch_env.errors import IGSearchError
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Gain, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers.program import ends_in_one_line

KINDS = ("only hop", "bridge", "last of several")
MEASURES = {
    "random, N = 1": InformationGainConfig(num_random=1),
    "random, N = 3": InformationGainConfig(),
    "random, N = 8": InformationGainConfig(num_random=8),
    "random, skeleton": InformationGainConfig(context="skeleton"),
    "previous": InformationGainConfig(baseline="previous"),
    "empty": InformationGainConfig(baseline="empty"),
}

CREDITS = {
    "own": "{}",
    "return": "{}, and later gains",
    "probability": "{}, probability",
    "probability return": "{}, probability, and later gains",
    "outcome": "outcome",
}


@dataclass
class Args:
    """Options of this script."""

    policies: tuple[str, ...] = ("bundled",)
    """Policies: `bundled`, folders or model names."""
    families: tuple[str, ...] = ("search_r1",)
    """Tag families; with autorefine the evidence is a passage block with its refinement by the policy."""
    num_questions: int = 64
    """Number of questions from the training split."""
    group_size: int = 8
    """Rollouts per question."""
    seed: int = 0
    """Seed of the rollouts and of the random evidence."""


@dataclass(frozen=True)
class Labelled:
    """A search whose usefulness is known."""

    kind: str
    useful: bool
    value: float
    siblings: tuple[int, int]  # question and number of the search; equal values are compared with each other


def main(args: Args) -> None:
    """Print one table per policy and family."""
    console = Console()
    retriever = bundled_retriever()
    questions = bundled_world().questions["train"]
    questions = questions[:: max(1, len(questions) // args.num_questions)]
    for path, family in product(args.policies, args.families):
        policy = Policy.load(PolicyConfig(path=path))
        protocol = make_protocol(family, "bare")
        stepper = EpisodeStepper(questions, retriever, None, EpisodeRules(protocol=protocol))
        turn_end = TurnEnd(policy.tokenizer, protocol.stop_strings)
        decoder = Decoder(policy, turn_end, slots=128, max_new_tokens=64 if protocol.refines else 32, temperature=1.0)
        buffer = collect(
            decoder, stepper, questions[: args.num_questions], group_size=args.group_size, seed=(args.seed,)
        )
        table = Table(title=f"{path}, {family}: outcome {buffer.outcomes.mean():.3f}", title_justify="left")
        for name in ("value", "search for", "n", "useful", "mean, useful", "mean, others", "AUC", "AUC, siblings"):
            table.add_column(name, justify="left" if name in ("value", "search for") else "right")
        for name, config in MEASURES.items():
            scorer = PolicyScorer(policy, pass_tokens=4_096)
            clear_gains(buffer)
            measure_information_gain(buffer, InformationGain(config, scorer, protocol, retriever, args.seed))
            for credit in CREDITS if config == InformationGainConfig() else ("own",):
                searches = list(labelled(buffer, credit))
                for kind in KINDS:
                    of_kind = row([s for s in searches if s.kind == kind])
                    table.add_row(CREDITS[credit].format(name), kind, *of_kind)
                table.add_section()
        console.print(table)


def clear_gains(buffer: RolloutBuffer) -> None:
    """Remove the measured gains from the buffer."""
    for trajectory in buffer.trajectories:
        for turn in trajectory.turns:
            turn.gain = None


def labelled(buffer: RolloutBuffer, credit: str) -> Iterator[Labelled]:
    """Every measured search before the last hop was found, with its label. `credit`: a key of `CREDITS`."""
    for group, trajectory in zip(buffer.group_index.tolist(), buffer.trajectories, strict=True):
        gains = [turn.gain or Gain(0.0, 0.0, 0.0) for turn in trajectory.turns]
        nats = [gain.value for gain in gains]
        chances = [gain.in_probability for gain in gains]
        for number, (place, kind, useful) in enumerate(_searches(trajectory)):
            if trajectory.turns[place].gain is not None:
                values = {"own": nats[place], "return": sum(nats[place:]), "outcome": trajectory.outcome}
                values |= {"probability": chances[place], "probability return": sum(chances[place:])}
                yield Labelled(kind, useful, values[credit], (group, number))


def _searches(trajectory: Trajectory) -> Iterator[tuple[int, str, bool]]:
    """Turn number, kind and usefulness of each search."""
    needed = [hop.passage_id for hop in trajectory.question.metadata["hops"]]
    seen: set[str] = set()
    found = 0
    for place, turn in enumerate(trajectory.turns):
        if not turn.is_search or found == len(needed):
            continue
        kind = "only hop" if len(needed) == 1 else "last of several" if found == len(needed) - 1 else "bridge"
        seen |= {passage.id for passage in turn.passages}
        before = found
        while found < len(needed) and needed[found] in seen:
            found += 1
        yield place, kind, found > before


def row(searches: Sequence[Labelled]) -> list[str]:
    """Number of searches, share of useful ones, mean values, and both AUCs, as text."""
    useful = np.array([s.useful for s in searches], dtype=bool)
    values = np.array([s.value for s in searches], dtype=np.float64)
    if not useful.any() or useful.all():
        return [str(len(searches)), f"{useful.mean():.2f}" if len(useful) else "", "", "", "", ""]
    _, index = np.unique([s.siblings for s in searches], axis=0, return_inverse=True)
    centred = values - (np.bincount(index, values) / np.bincount(index))[index]
    means = (f"{values[useful].mean():+.2f}", f"{values[~useful].mean():+.2f}")
    return [str(len(searches)), f"{useful.mean():.2f}", *means, *(f"{auc(x, useful):.2f}" for x in (values, centred))]


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError):
        main(parse_options(Args, description=__doc__))
