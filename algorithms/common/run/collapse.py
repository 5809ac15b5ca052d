"""Warnings while a run collapses: what is seen in its metrics, since when, what it usually means, what to try.

A sign counts once it has been seen for some steps in a row, and is told once. It is told again only after it had been
gone for `RECOVERY` steps in a row, so a metric that wavers about its bound does not repeat itself. Everything that a
watch knows comes from the metrics of training steps, so the rows of metrics.jsonl bring it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Bounds. "Healthy" are 46 runs of this repository (eight algorithms, two starting policies, most of 24 or 60 steps),
# in none of which a sign was told.
EARLY = 5  # steps whose mean entropy is the measure of later ones: learning has hardly begun, one batch is too few
ENTROPY = 0.2  # of that mean; the healthy runs never went below 0.52
ALL_FAIL = 0.9  # with 16 groups at most one teaches; healthy runs from a cold start touch it, but not for long
ALL_EQUAL = 0.95  # with 16 groups none teaches
ZERO_ADVANTAGE = 0.95  # of the tokens: PPO or groups of one have equal rewards in each group, and still learn
AT_LIMIT = 0.9  # of the attempts: the policy no longer decides when to stop
REPEATED = 0.5  # of the searches: more of them bring nothing new than something
NO_SEARCH = 0.05  # searches a trajectory: too few for a group of eight to compare one with none
INVALID = 0.5  # of the turns; the healthy runs never went above 0.17
CUT = 0.5  # of the turns, or of the episodes: more end at a limit than by themselves
CLIP = 0.5  # of the tokens give no gradient; PPO's usual figures are 0.1 to 0.3
KL_OLD = 0.2  # nats a token: the mean ratio has left the usual clip range of 0.2 (log 1.2 = 0.18)
NO_GRADIENT = 1e-12  # norm before clipping: 0 but for rounding
STEPS = 5  # in a row: one odd batch is no collapse
AT_ONCE = 1  # ... but an update that went too far is seen in one step, and the next builds on it
RECOVERY = 5

ENTROPY_KEPT = f"policy/entropy as a share of its mean over the first {EARLY} steps"


@dataclass(frozen=True)
class Symptom:
    """Seen while every metric named is beyond its bound; the first is the one to tell."""

    above: Mapping[str, float] = field(default_factory=dict)
    below: Mapping[str, float] = field(default_factory=dict)
    steps: int = STEPS
    advice: str = ""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [*self.above, *self.below]

    def seen(self, metrics: Mapping[str, float]) -> bool:
        """Whether every metric is beyond its bound."""
        return all(metrics[name] > bound for name, bound in self.above.items()) and all(
            metrics[name] < bound for name, bound in self.below.items()
        )

    def message(self, step: int, since: int, metrics: Mapping[str, float]) -> str:
        """What to print at `step`."""
        name = self.metrics[0]
        relation, bound = ("above", self.above[name]) if name in self.above else ("below", self.below[name])
        when = "in this step" if since == step else f"since step {since}"
        return f"step {step}: {name} is {metrics[name]:.3g}, {relation} {bound:g} {when}. {self.advice}"


SIGNS = (
    Symptom(
        below={ENTROPY_KEPT: ENTROPY},
        advice="The policy hardly explores any more, and rollouts of a group become alike: lower optimizer.lr, raise "
        "loss.clip_ratio_high (DAPO: 0.28), hold it back with loss.kl_coef (Search-R1: 0.001), or go on from an "
        "earlier checkpoint.",
    ),
    Symptom(
        above={"all_fail": ALL_FAIL},
        advice="Nearly every group fails entirely, so outcomes teach next to nothing; if it was better before, the "
        "policy has collapsed: go back to a checkpoint and lower optimizer.lr. From the start, the questions are too "
        "hard for it: mix in easier ones, raise rollout.group_size, check the retriever, or take ig_grpo, which still "
        "ranks the searches of such a group.",
    ),
    Symptom(
        above={"all_equal": ALL_EQUAL, "advantage/zero_share": ZERO_ADVANTAGE},
        advice="No group teaches, since all of its rollouts earn the same (all right, or all wrong: see correct): take "
        "harder or easier questions, raise rollout.group_size or rollout.temperature, or grpo with "
        "--dynamic-sampling.",
    ),
    Symptom(
        above={"searches/at_limit": AT_LIMIT},
        advice="Nearly every attempt uses up its searches, whether they help or not: the policy no longer decides "
        "when to answer. Read the transcripts; raise env.max_searches if questions need more, and see that nothing "
        "pays for searching as such (ig_grpo: lower alpha, query_tags False).",
    ),
    Symptom(
        above={"searches/repeated": REPEATED},
        advice="Most searches ask again what the episode asked before, which brings the same passages: read the "
        "transcripts, look at searches/empty, lower alpha where information gain is paid, and go on from an earlier "
        "checkpoint with a lower optimizer.lr.",
    ),
    Symptom(
        below={"searches": NO_SEARCH},
        advice="The policy answers without searching, so nothing teaches it to search again: check that the retriever "
        "finds the evidence and that the prompt asks to search, then go on from an earlier checkpoint, or start from a "
        "policy that searches, with a lower optimizer.lr.",
    ),
    Symptom(
        above={"invalid_actions": INVALID},
        advice="Most turns hold neither a search nor an answer: the policy has not learnt, or has lost, the tags. "
        "Check that env.protocol and env.prompt fit it and that rollout.max_new_tokens leaves room for an action; if "
        "it was better before, go back to a checkpoint and lower optimizer.lr.",
    ),
    Symptom(
        above={"length/cut_share": CUT},
        advice="Most turns are cut off before their action is complete, all at the same length (length/turn_max): "
        "raise rollout.max_new_tokens, or, if turns grew into it, lower optimizer.lr or penalise length "
        "(grpo: --overlong-buffer).",
    ),
    Symptom(
        above={"stop/context_full": CUT},
        advice="Most episodes end because the context is full, without an answer: lower env.top_k, "
        "the tokens that a search may show or env.max_searches, or take a policy with a longer context.",
    ),
    Symptom(
        above={"policy/clip_fraction": CLIP},
        steps=AT_ONCE,
        advice="Most tokens are clipped, so the update has gone far from the policy that sampled: lower optimizer.lr, "
        "optimizer.epochs or optimizer.num_minibatches; if another engine or precision samples, set "
        "rollout.recompute_logprobs.",
    ),
    Symptom(
        above={"policy/kl_old": KL_OLD},
        steps=AT_ONCE,
        advice="Within one step the policy has left the one that sampled, the usual way into a collapse: lower "
        "optimizer.lr, optimizer.epochs or optimizer.num_minibatches, "
        "and go on from the last good checkpoint; if another engine or precision samples, set "
        "rollout.recompute_logprobs.",
    ),
    Symptom(
        below={"policy/grad_norm": NO_GRADIENT},
        advice="Nothing is learned: every advantage is 0 (see all_equal), or no weight is trained. Take questions "
        "whose rollouts differ in outcome, or an algorithm that also learns from equal ones (ig_grpo).",
    ),
)


@dataclass
class Streak:
    """What is known of one sign: how long it has been seen, or gone, in a row, and whether it was told."""

    since: int = 0
    seen: int = 0
    gone: int = 0
    told: bool = False


class CollapseWatch:
    """Fed with the metrics of one training step after another."""

    def __init__(self) -> None:
        self.spells = [Streak() for _ in SIGNS]
        self.early: list[float] = []

    @classmethod
    def resumed(cls, rows: Iterable[Mapping[str, Any]]) -> CollapseWatch:
        """The watch of a run that has logged these rows of metrics.jsonl; what it said then is not said again."""
        watch = cls()
        for row in rows:
            watch.observe(row["step"], row)
        return watch

    def observe(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """What to tell after this step. Signs whose metrics are missing or NaN are left as they were."""
        values = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        if "policy/entropy" in values:
            if len(self.early) < EARLY:
                self.early.append(values["policy/entropy"])
            elif sum(self.early) > 0:
                values[ENTROPY_KEPT] = values["policy/entropy"] / (sum(self.early) / EARLY)
        messages = []
        for sign, spell in zip(SIGNS, self.spells, strict=True):
            if not values.keys() >= set(sign.metrics):
                continue
            if sign.seen(values):
                spell.since = spell.since if spell.seen else step
                spell.seen, spell.gone = spell.seen + 1, 0
                if spell.seen >= sign.steps and not spell.told:
                    spell.told = True
                    messages.append(sign.message(step, spell.since, values))
            else:
                spell.seen, spell.gone = 0, spell.gone + 1
                if spell.gone >= RECOVERY:
                    spell.told = False
        return messages
