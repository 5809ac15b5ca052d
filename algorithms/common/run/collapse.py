"""Warnings when a run collapses: which metric is out of bounds, since when, the usual cause and what to try.

A symptom is reported once, after it has been seen for a number of consecutive steps. It is reported again only after
it has been absent for `RECOVERY` consecutive steps, so a metric that oscillates around its bound does not repeat the
warning. The state depends on the metrics of training steps alone, so it can be restored from metrics.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Bounds. "Healthy" refers to 46 runs of this repository (eight algorithms, two starting policies, most with 24 or 60
# steps), none of which triggered a warning.
EARLY = 5  # first steps, whose mean entropy is the reference for later steps; a single batch is too noisy
ENTROPY = 0.2  # share of that mean; healthy runs never fell below 0.52
ALL_FAIL = 0.9  # share of groups: of 16, at most one gives a signal; cold starts reach it, but only briefly
ALL_EQUAL = 0.95  # share of groups: of 16, none gives a signal
ZERO_ADVANTAGE = 0.95  # share of tokens: PPO and groups of size one have equal rewards in each group, and still learn
AT_LIMIT = 0.9  # share of attempts: the policy no longer decides when to stop
REPEATED = 0.5  # share of searches: most of them return nothing new
NO_SEARCH = 0.05  # searches per trajectory: most groups of eight have no search to learn from
INVALID = 0.5  # share of turns; healthy runs never exceeded 0.17
CUT = 0.5  # share of turns or episodes: most end at a limit
CLIP = 0.5  # share of tokens without a gradient; usual values of PPO are 0.1 to 0.3
KL_OLD = 0.2  # nats per token: the mean ratio has left the usual clip range of 0.2 (log 1.2 = 0.18)
NO_GRADIENT = 1e-12  # norm before clipping: 0 up to rounding
STEPS = 5  # consecutive steps: a single unusual batch is not a collapse
AT_ONCE = 1  # ... but a too large update shows in a single step, and the next step builds on it
RECOVERY = 5

ENTROPY_KEPT = f"policy/entropy as a share of its mean over the first {EARLY} steps"


@dataclass(frozen=True)
class Symptom:
    """Present while every listed metric is beyond its bound; the warning names the first metric."""

    above: Mapping[str, float] = field(default_factory=dict)
    below: Mapping[str, float] = field(default_factory=dict)
    steps: int = STEPS
    advice: str = ""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [*self.above, *self.below]

    def seen(self, metrics: Mapping[str, float]) -> bool:
        """Whether every listed metric is beyond its bound."""
        return all(metrics[name] > bound for name, bound in self.above.items()) and all(
            metrics[name] < bound for name, bound in self.below.items()
        )

    def message(self, step: int, since: int, metrics: Mapping[str, float]) -> str:
        """The warning to print at `step`."""
        name = self.metrics[0]
        relation, bound = ("above", self.above[name]) if name in self.above else ("below", self.below[name])
        when = "in this step" if since == step else f"since step {since}"
        return f"step {step}: {name} is {metrics[name]:.3g}, {relation} {bound:g} {when}. {self.advice}"


SIGNS = (
    Symptom(
        below={ENTROPY_KEPT: ENTROPY},
        advice="The policy hardly explores any more, and the rollouts of a group become alike: lower optimizer.lr, "
        "raise loss.clip_ratio_high (DAPO: 0.28), add a KL penalty with loss.kl_coef (Search-R1: 0.001), or resume "
        "from an earlier checkpoint.",
    ),
    Symptom(
        above={"all_fail": ALL_FAIL},
        advice="All rollouts fail in nearly every group, so outcomes give almost no training signal. If this was "
        "better before, the policy has collapsed: go back to a checkpoint and lower optimizer.lr. If it was so from "
        "the start, the questions are too hard: mix in easier ones, raise rollout.group_size, check the retriever, or "
        "use ig_grpo, which still ranks the searches of such a group.",
    ),
    Symptom(
        above={"all_equal": ALL_EQUAL, "advantage/zero_share": ZERO_ADVANTAGE},
        advice="No group gives a training signal, because all of its rollouts get the same reward (all correct or all "
        "wrong: see correct): use harder or easier questions, raise rollout.group_size or rollout.temperature, or use "
        "grpo with --dynamic-sampling.",
    ),
    Symptom(
        above={"searches/at_limit": AT_LIMIT},
        advice="Nearly every attempt uses all of its searches, whether they help or not: the policy no longer decides "
        "when to answer. Read the transcripts; raise env.max_searches if questions need more searches, and make sure "
        "that searching itself is not rewarded (ig_grpo: lower alpha, query_tags False).",
    ),
    Symptom(
        above={"searches/repeated": REPEATED},
        advice="Most searches repeat an earlier query of the episode, which returns the same passages: read the "
        "transcripts, check searches/empty, lower alpha if information gain is rewarded, and resume from an earlier "
        "checkpoint with a lower optimizer.lr.",
    ),
    Symptom(
        below={"searches": NO_SEARCH},
        advice="The policy answers without searching, so it can't learn to search again: check that the retriever "
        "finds the evidence and that the prompt asks the policy to search, then resume from an earlier checkpoint, or "
        "start from a policy that searches, with a lower optimizer.lr.",
    ),
    Symptom(
        above={"invalid_actions": INVALID},
        advice="Most turns contain neither a search nor an answer: the policy has not learnt the tags, or has lost "
        "them. Check that env.protocol and env.prompt fit the policy and that rollout.max_new_tokens is large enough "
        "for an action; if this was better before, go back to a checkpoint and lower optimizer.lr.",
    ),
    Symptom(
        above={"length/cut_share": CUT},
        advice="Most turns are truncated before their action is complete, all at the same length (length/turn_max): "
        "raise rollout.max_new_tokens, or, if turns have grown up to that limit, lower optimizer.lr or penalise length "
        "(grpo: --overlong-buffer).",
    ),
    Symptom(
        above={"stop/context_full": CUT},
        advice="Most episodes end without an answer because the context is full: lower env.top_k or "
        "env.max_searches, shorten what a search shows, or use a policy with a longer context.",
    ),
    Symptom(
        above={"policy/clip_fraction": CLIP},
        steps=AT_ONCE,
        advice="Most tokens are clipped, so the update has moved far from the policy that sampled: lower optimizer.lr, "
        "optimizer.epochs or optimizer.num_minibatches; if the rollouts use another engine or precision, set "
        "rollout.recompute_logprobs.",
    ),
    Symptom(
        above={"policy/kl_old": KL_OLD},
        steps=AT_ONCE,
        advice="The update of one step has moved the policy far from the one that sampled, which often precedes a "
        "collapse: lower optimizer.lr, optimizer.epochs or optimizer.num_minibatches, "
        "and resume from the last good checkpoint; if the rollouts use another engine or precision, set "
        "rollout.recompute_logprobs.",
    ),
    Symptom(
        below={"policy/grad_norm": NO_GRADIENT},
        advice="Nothing is learned: every advantage is 0 (see all_equal), or no weight is trained. Use questions "
        "whose rollouts differ in outcome, or an algorithm that also learns from equal outcomes (ig_grpo).",
    ),
)


@dataclass
class Streak:
    """The state of one symptom: for how many consecutive steps it was seen or absent, and whether it was reported."""

    since: int = 0
    seen: int = 0
    gone: int = 0
    reported: bool = False


class CollapseWatch:
    """Detects collapse from the metrics of consecutive training steps."""

    def __init__(self) -> None:
        self.spells = [Streak() for _ in SIGNS]
        self.early: list[float] = []

    @classmethod
    def resumed(cls, rows: Iterable[Mapping[str, Any]]) -> CollapseWatch:
        """Restore the state from the rows of metrics.jsonl; warnings already given are not repeated."""
        watch = cls()
        for row in rows:
            watch.observe(row["step"], row)
        return watch

    def observe(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """The warnings to print after this step. Missing or NaN metrics leave the state of a symptom unchanged."""
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
                if spell.seen >= sign.steps and not spell.reported:
                    spell.reported = True
                    messages.append(sign.message(step, spell.since, values))
            else:
                spell.seen, spell.gone = 0, spell.gone + 1
                if spell.gone >= RECOVERY:
                    spell.reported = False
        return messages
