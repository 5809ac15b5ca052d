"""Information gain of a search step (IG-Search, arXiv 2604.15148, Eq. 2 and 3), with any scorer.

    IG_t = s(a* | C_t, real evidence) - mean_{j=1..N} s(a* | C_t, random evidence_j)              (Eq. 2)
    s    = weighted mean token log-prob of the first golden answer a*                             (Eq. 3)

C_t is what the policy saw up to and including its t-th query (`evidence.py`). Baselines by name:

    random     mean over N evidences of searches for other questions, else of random passages (IG-Search)
    previous   s(a* | the context before this search) (IGPO, arXiv 2510.14967)
    empty      an evidence block without passages (the paper's ablation)
    query      the higher of `random` and of a block whose passages repeat the query: a guess of a* earns nothing (ours)

`gain_sources.py` has the controls: dense rewards of other sources in place of the measured gain.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Literal

from igsearch_env.errors import ConfigurationError, check_choice, check_literals, check_range
from igsearch_env.evidence import (
    Evidence,
    SearchStep,
    context,
    corpus_evidence,
    evidence_of,
    history,
    query_evidence,
    real_segment,
    segment,
    skeleton_segment,
)
from igsearch_env.gain_sources import SCORED, Source, oracle_gains, random_gains, shuffled_gains
from igsearch_env.protocols import Protocol
from igsearch_env.scorers import HEAD_WEIGHT, AnswerScorer, ScoreRequest, Segment, checked_scores
from igsearch_env.skeleton import SkeletonReader
from igsearch_env.trajectory import Gain, GainForm
from retrievers.base import Retriever
from retrievers.random_streams import random_stream

Read = Callable[[SearchStep], Evidence]
Baseline = Literal["random", "previous", "empty", "query"]
ContextForm = Literal["trajectory", "skeleton"]
SoftClipForm = Literal["none", "tanh", "log", "hard"]
GoldenAnswers = Literal["first", "all"]


@dataclass(frozen=True)
class InformationGainConfig:
    """How information gain is measured and stabilised.

    The paper does not publish the constants of the stabilisers and the form of its soft clip; these are our choice.
    """

    source: Source = "policy"
    """Where gains come from: measured by the policy (paper; another scorer in environments), or a control: measured but
    shuffled among the searches of the batch; random numbers; or of an oracle, by the supporting passages found
    (support), the hops to a page that answers (distance), or TF-IDF similarity to the supporting passages
    (similarity)."""
    baseline: Baseline = "random"
    """What the real evidence is compared with: random evidence, the context before the search (previous), a block
    without passages (empty), or the better of random evidence and passages that repeat the query (query; ours)."""
    num_random: int = 3
    """N, number of random evidences per search (paper: 3)."""
    random_source: Literal["batch", "corpus"] = "batch"
    """Source of random evidence: batch (searches of other questions, then the corpus) or corpus."""
    context: ContextForm = "trajectory"
    """What the scorer reads before the evidence: trajectory (the tokens the policy saw) or skeleton (authors' form)."""
    head_weight: float = HEAD_WEIGHT
    """Weight of each of the answer's first three tokens in s (paper: 3.0; IGPO: 1.0)."""
    golden_answers: GoldenAnswers = "first"
    """Score the first golden answer (paper), or all: s is then the log of the sum of their e^s (TIPS)."""
    dead_zone: float = 0.05
    """delta, nats: |IG| below it counts as 0. Our choice."""
    negative_scale: float = 0.5
    """lambda in [0, 1]: factor on negative IG, so that the policy does not stop searching. Our choice."""
    soft_clip: float = 2.0
    """eta, nats: scale of the soft clip. Our choice."""
    soft_clip_form: SoftClipForm = "tanh"
    """none, tanh (eta tanh(x/eta)), log (eta + log(1 + |x| - eta) beyond eta) or hard. Our choice."""

    def __post_init__(self) -> None:
        check_literals(self, "information_gain")
        check_range("information_gain.num_random", self.num_random, 1)
        if not isinstance(self.num_random, Integral):
            raise ConfigurationError(f"information_gain.num_random={self.num_random!r}: must be a whole number")
        check_range("information_gain.head_weight", self.head_weight, 1e-6)  # short answers have no other weight
        check_range("information_gain.dead_zone", self.dead_zone, 0)
        check_range("information_gain.negative_scale", self.negative_scale, 0, 1)
        check_range("information_gain.soft_clip", self.soft_clip, 1e-6)

    @property
    def needs_scorer(self) -> bool:
        """Whether answers are scored."""
        return self.source in SCORED

    @classmethod
    def of(cls, given: InformationGainConfig | dict[str, Any] | None) -> InformationGainConfig:
        """The configuration itself, or that of a dictionary of fields; None is the default."""
        if given is None or isinstance(given, cls):
            return given or cls()
        if not isinstance(given, dict):
            raise ConfigurationError(
                f"information_gain={repr(given)[:80]}: must be an InformationGainConfig or a dictionary of its fields, "
                f"such as {{'baseline': 'random'}}; or None for the defaults"
            )
        for key in sorted(set(given) - set(cls.__dataclass_fields__), key=str):
            check_choice("information_gain key", key, cls.__dataclass_fields__)
        return cls(**given)

    def stabilised(self, gain: Gain | None, form: GainForm = "log_probability") -> float:
        """IG~ of a search; 0 without a gain."""
        return 0.0 if gain is None else self.stabilise(gain.in_form(form))

    def stabilise(self, gain: float) -> float:
        """IG -> IG~: dead zone, then negative scaling, then soft clip. 0 stays 0 and signs never change."""
        if abs(gain) < self.dead_zone:
            return 0.0
        if gain < 0:
            gain *= self.negative_scale
        eta = self.soft_clip
        match self.soft_clip_form:
            case "tanh":
                return eta * math.tanh(gain / eta)
            case "log" if abs(gain) > eta:
                return math.copysign(eta + math.log1p(abs(gain) - eta), gain)
            case "hard":
                return min(max(gain, -eta), eta)
            case _:
                return gain


@dataclass(frozen=True)
class InformationGain:
    """The gain of search steps. If measured, it depends on `seed`, question, step and pool, never on batch order.

    `scorer` may be None if the source of the gains needs none.
    """

    config: InformationGainConfig
    scorer: AnswerScorer | None
    protocol: Protocol
    retriever: Retriever | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.config.context == "skeleton":
            self.protocol.skeleton("", 0)  # raises if the protocol has none

    def of_batch(
        self,
        batch: Sequence[SearchStep],
        mine: Sequence[SearchStep] | None = None,
        gather: Callable[[list[Gain]], list[Gain]] = list,
    ) -> list[Gain]:
        """One gain for each search of a batch.

        Args:
            batch: the searches of all processes.
            mine: those that this process measures; all of them by default.
            gather: of the gains of `mine`, those of all processes, in the order of `batch`.
        """
        if self.config.source == "random":
            return random_gains(len(batch), self.seed)
        gains = gather(self.measure(batch if mine is None else mine, batch))
        return shuffled_gains(gains, self.seed) if self.config.source == "shuffled" else gains

    def measure(self, steps: Sequence[SearchStep], pool: Sequence[SearchStep] | None = None) -> list[Gain]:
        """One gain per step, scored in one call. `pool`: searches to draw random evidence from (default `steps`).

        Of the source `shuffled`, the gains before they are shuffled; `random` has none (`of_batch`).
        """
        if not self.config.needs_scorer:
            return oracle_gains(steps, self.config.source, self.retriever)
        assert self.scorer is not None
        requests, evidences = self.requests(steps, pool)
        scores = checked_scores(self.scorer.score(requests), requests)
        if self.config.baseline == "previous":
            scores = [[*real, *before] for real, before in zip(scores[::2], scores[1::2], strict=True)]
        of_answers, gains = iter(scores), []
        for step, texts in zip(steps, evidences, strict=True):
            of_step = [next(of_answers) for _ in self._answers(step)]
            real_score, *others = map(log_sum_exp, zip(*of_step, strict=True))
            if self.config.baseline == "query":
                # The query alone would reward wrong guesses: repeated, they make the answer less likely than it was.
                repeated, *others = others
                baseline = max(repeated, sum(others) / len(others))
            else:
                baseline = sum(others) / len(others)
            gains.append(Gain(real_score - baseline, real_score, baseline, texts))
        return gains

    def requests(
        self, steps: Sequence[SearchStep], pool: Sequence[SearchStep] | None = None
    ) -> tuple[list[ScoreRequest], list[tuple[str, ...]]]:
        """The score requests of the steps and the texts of their baseline evidences.

        One request per step and scored answer, real branch first; for the baseline "previous" two: after and before the
        search. Answers of one step share what is read before them.
        """
        protocol, weight = self.protocol, self.config.head_weight
        skeletons = SkeletonReader(protocol, getattr(self.scorer, "decode", None))
        is_skeleton = self.config.context == "skeleton"
        read = skeletons.evidence if is_skeleton else partial(evidence_of, protocol=protocol)
        drawn = self._draw(steps, steps if pool is None else pool, read)
        requests, texts = [], []
        for step, baselines in zip(steps, drawn, strict=True):
            real, prefix, space = read(step), protocol.answer_prefix, protocol.answer_space
            before: tuple[Segment, ...]
            if is_skeleton:
                before, branches = (skeletons.context(step),), [*map(skeleton_segment, (real, *baselines))]
                prefix, space = f"\n{prefix}{space}", ""
            else:
                before = context(step)
                branches = [real_segment(real, step, protocol), *(segment(e, step, protocol) for e in baselines)]
                prefix = "\n" + prefix if real.refine else prefix
            for answer in self._answers(step):
                target = space + answer
                requests.append(ScoreRequest(before, tuple(branches), prefix, target, weight, is_skeleton))
                if self.config.baseline == "previous":
                    past = history(step.trajectory, step.index)
                    requests.append(ScoreRequest(past, (Segment("", ()),), prefix, target, weight))
            texts.append(tuple(branch.text for branch in branches[1:]))
        return requests, texts

    def _answers(self, step: SearchStep) -> tuple[str, ...]:
        answers = step.trajectory.question.golden_answers
        return answers if self.config.golden_answers == "all" else answers[:1]

    def _draw(self, steps: Sequence[SearchStep], pool: Sequence[SearchStep], read: Read) -> list[list[Evidence]]:
        if self.config.baseline == "previous":
            return [[] for _ in steps]
        if self.config.baseline == "empty":
            return [[Evidence(("", ""), 0, self.protocol.evidence(()), "")] for _ in steps]
        from_batch = self.config.random_source == "batch"
        sorted_pool = sorted({read(step) for step in pool}) if from_batch else []
        owners = [evidence.question for evidence in sorted_pool]
        drawn = [self._draw_one(step, read(step), sorted_pool, owners) for step in steps]
        if self.config.baseline == "query":
            return [[query_evidence(s, read(s), self.protocol), *d] for s, d in zip(steps, drawn, strict=True)]
        return drawn

    def _draw_one(
        self, step: SearchStep, real: Evidence, pool: Sequence[Evidence], owners: Sequence[tuple[str, str]]
    ) -> list[Evidence]:
        question, wanted = step.trajectory.question, self.config.num_random
        own = (question.dataset, question.id)
        rng = random_stream("random evidence", self.seed, *own, step.index)
        low, high = bisect_left(owners, own), bisect_right(owners, own)
        others = len(pool) - (high - low)
        # A few extra: another question may have retrieved the same passages, which are no baseline.
        places = rng.choice(others, min(2 * wanted + 2, others), replace=False).tolist() if others else []
        candidates = [pool[i if i < low else i + high - low] for i in places]
        chosen = [c for c in candidates if c.block != real.block][:wanted]
        if len(chosen) < wanted:
            if self.retriever is None:
                raise ConfigurationError(
                    f"{len(chosen)} random evidences for question {question.id!r}, {wanted} needed: "
                    "pass a retriever to draw the others from its corpus, or use more questions per batch"
                )
            count = len(step.trajectory.turns[step.index].passages)
            chosen += corpus_evidence(real, wanted - len(chosen), count, self.protocol, self.retriever, rng)
        return chosen


def log_sum_exp(scores: Sequence[float]) -> float:
    """log sum_k e^score_k; of a single score it is that score exactly."""
    highest = max(scores)
    return highest + math.log(sum(math.exp(score - highest) for score in scores))


def set_gains(steps: Sequence[SearchStep], gains: Sequence[Gain]) -> None:
    """Record the gain of each step in its turn."""
    for step, gain in zip(steps, gains, strict=True):
        step.trajectory.turns[step.index].gain = gain
