"""Makes a policy that knows the answers of a few questions and puts them into a part of its queries.

    python examples/guessing_policy.py --output runs/guessing
    python algorithms/ig_grpo.py --policy.path runs/guessing/policy --env.questions runs/guessing/questions.jsonl \\
        --rollout.questions-per-step 14 --steps 24 --information-gain.baseline random

The bundled policy knows no answer, so it can't guess. Here it is trained, supervised, on episodes of a few training
questions: a share of them searches the golden answer, the others the supporting titles, one after another; all end with
the golden answer. Reinforcement on the same questions then shows whether a reward makes the guesses more frequent
(`searches/unseen_answer` in `metrics.jsonl`). `docs/algorithms.md` has the result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.environment import EpisodeConfig, make_rules
from algorithms.common.rollout.scripted import play_recorded
from igsearch_env.errors import IGSearchError
from igsearch_env.protocols import Answer, Search
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers.program import ends_in_one_line
from retrievers.random_streams import random_stream


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    output: Path = Path("runs/guessing")
    """Folder for the policy and its questions."""
    num_questions: int = 28
    """Training questions of the bundled world."""
    guesses: float = 0.3
    """Share of the episodes that search the golden answer."""
    steps: int = 150
    """Optimizer steps."""
    lr: float = 1e-3
    """Learning rate."""
    seed: int = 0
    """Determines which episodes guess."""


def main(args: Args) -> None:
    """Train and save the policy."""
    policy = Policy.load(PolicyConfig())
    questions = bundled_world().questions["train"][: args.num_questions]
    stepper = EpisodeStepper(questions, bundled_retriever(), None, make_rules(EpisodeConfig(), policy.tokenizer))
    guessed, searched = (episodes(policy, stepper, questions, guess=guess) for guess in (True, False))
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=args.lr)
    rng = random_stream("guessing episodes", args.seed)
    for step in range(1, args.steps + 1):
        batch = [g if rng.random() < args.guesses else s for g, s in zip(guessed, searched, strict=True)]
        loss = -policy.token_logprobs(*padded(policy, batch))[0].mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}/{args.steps}: loss {loss.item():.3f}", flush=True)
    policy.save(args.output / "policy")
    rows = "".join(json.dumps(question.to_dict()) + "\n" for question in questions)
    (args.output / "questions.jsonl").write_text(rows, encoding="utf-8")


def episodes(
    policy: Policy, stepper: EpisodeStepper, questions: Sequence[Question], *, guess: bool
) -> list[Trajectory]:
    """One episode per question: the golden answer or the supporting titles as queries, then the golden answer."""

    def write(trajectory: Trajectory, may_search: bool) -> str:
        question, done = trajectory.question, trajectory.searches
        plan = question.golden_answers[:1] if guess else question.supporting_titles
        action = Search(plan[done]) if done < len(plan) else Answer(question.golden_answers[0])
        return stepper.rules.protocol.write(action)

    return play_recorded(policy, stepper, questions, write, max_new_tokens=64)


def padded(policy: Policy, batch: Sequence[Trajectory]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] and whether the policy wrote them [B, T], padded on the right."""
    rows, masks = [], []
    for trajectory in batch:
        parts = [(trajectory.prompt_ids, False)]
        for turn in trajectory.turns:
            parts += [(turn.completion_ids, True), (turn.observation_ids, False)]
        rows.append(torch.tensor([*chain(*(ids for ids, _ in parts))]))
        masks.append(torch.tensor([written for ids, written in parts for _ in ids]))
    pad = policy.tokenizer.pad_id
    pad_rows = torch.nn.utils.rnn.pad_sequence
    return pad_rows(rows, batch_first=True, padding_value=pad), pad_rows(masks, batch_first=True)


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError):
        main(parse_options(Args, description=__doc__))
