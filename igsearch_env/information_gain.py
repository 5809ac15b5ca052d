"""Information gain of a search step (IG-Search, arXiv 2604.15148, Eq. 2 and 3), pure: it takes a scorer.

    IG_t = s(a* | C_t, real evidence) - mean_{j=1..N} s(a* | C_t, random evidence_j)              (Eq. 2)
    s    = weighted mean token log-prob of the first golden answer a*                             (Eq. 3)

C_t is what the policy saw up to and including its t-th query. The evidence is the block of passages; in the
autorefine family the (passages, refine) pair, swapped jointly. Baselines, by name, since they differ in kind:

    random     N evidences of other questions' searches, else of random passages (IG-Search)
    previous   s(a* | what was known before this search) (IGPO, arXiv 2510.14967)
    empty      an evidence block without passages (the paper's ablation)

Context forms: "trajectory" is exactly what the policy saw; "skeleton" is what the authors' released code builds
(later thoughts dropped, blocks joined by newlines), for parity.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igsearch_env.errors import ConfigurationError, check_choice, check_range
from igsearch_env.protocol import Protocol, action_span, refine_span, refine_text
from igsearch_env.scorers import HEAD_WEIGHT, AnswerScorer, ScoreRequest, Segment
from igsearch_env.trajectory import Gain, Trajectory
from retrievers.base import Passage, Retriever

BASELINES = ("random", "previous", "empty")
CONTEXTS = ("trajectory", "skeleton")
SOURCES = ("batch", "corpus")
SOFT_CLIPS = ("none", "tanh", "log", "hard")
MIN_EVIDENCE_CHARS = 10  # searches that brought less have no gain (IG-Search `ig_reward.py`)


@dataclass(frozen=True)
class InformationGainConfig:
    """How information gain is measured and stabilised.

    The paper's constants of the stabilisers, and the form of its soft clip, are not public: these are ours.
    """

    baseline: str = "random"
    """What the real evidence is compared with: random, previous or empty."""
    num_random: int = 3
    """N, random evidences per search (paper: 3)."""
    random_source: str = "batch"
    """Where random evidence comes from: batch (searches of other questions, then the corpus) or corpus."""
    context: str = "trajectory"
    """What the scorer reads before the evidence: trajectory or skeleton."""
    head_weight: float = HEAD_WEIGHT
    """Weight of each of the answer's first three tokens in s (paper: 3.0; IGPO: 1.0)."""
    dead_zone: float = 0.05
    """delta, nats: a smaller |IG| counts as 0. Ours."""
    negative_scale: float = 0.5
    """lambda in [0, 1]: factor on negative IG, so that the policy does not give up searching. Ours."""
    soft_clip: float = 2.0
    """eta, nats: where the soft clip bends. Ours."""
    soft_clip_form: str = "tanh"
    """none, tanh (eta tanh(x/eta)), log (eta + log(1 + |x| - eta) beyond eta) or hard. Ours."""

    def __post_init__(self) -> None:
        check_choice("information_gain.baseline", self.baseline, BASELINES)
        check_choice("information_gain.random_source", self.random_source, SOURCES)
        check_choice("information_gain.context", self.context, CONTEXTS)
        check_choice("information_gain.soft_clip_form", self.soft_clip_form, SOFT_CLIPS)
        check_range("information_gain.num_random", self.num_random, 1)
        check_range("information_gain.head_weight", self.head_weight, 0)
        check_range("information_gain.dead_zone", self.dead_zone, 0)
        check_range("information_gain.negative_scale", self.negative_scale, 0, 1)
        check_range("information_gain.soft_clip", self.soft_clip, 1e-6)

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


@dataclass(frozen=True, slots=True)
class SearchStep:
    """A search to value: turn `index` of `trajectory`."""

    trajectory: Trajectory
    index: int


def search_steps(trajectories: Sequence[Trajectory]) -> list[SearchStep]:
    """Every search that brought enough text to be worth something, in order."""
    return [
        SearchStep(trajectory, index)
        for trajectory in trajectories
        for index, turn in enumerate(trajectory.turns)
        if turn.is_search and has_evidence(turn.passages)
    ]


def has_evidence(passages: Sequence[Passage]) -> bool:
    """Whether passages have at least `MIN_EVIDENCE_CHARS` characters: with a title, `Doc 1(Title: t)` alone has."""
    return any(p.title for p in passages) or sum(len(p.text) for p in passages) >= MIN_EVIDENCE_CHARS


# ---------------------------------------------------------------- contexts and evidence


def context(step: SearchStep, form: str) -> tuple[Segment, ...]:
    """What stands before the evidence of a step: up to and including its query."""
    trajectory = step.trajectory
    if form == "trajectory":
        return (*_history(trajectory, step.index), _written(trajectory, step.index))
    first_text = trajectory.turns[0].text
    start = trajectory.prompt + first_text[: max(first_text.find("<search>"), 0)]
    blocks: list[str] = []
    for index in range(step.index + 1):
        turn = trajectory.turns[index]
        if not turn.is_search:
            continue
        span = action_span(turn.text)
        assert span is not None  # a search has one
        blocks.append(f"<search>{turn.text[span[1] : span[2]]}</search>")
        if index < step.index:
            blocks.append(turn.observation.strip())
            refined = _refine_block(trajectory, index)
            if refined:
                blocks.append(refined)
    return (Segment(start + "\n".join(blocks)),)


def _history(trajectory: Trajectory, end: int) -> tuple[Segment, ...]:
    """The prompt and the turns before `end`, as the policy saw them."""
    segments = [Segment(trajectory.prompt, trajectory.prompt_ids or None)]
    for index in range(end):
        turn = trajectory.turns[index]
        segments += [_written(trajectory, index), Segment(turn.observation, turn.observation_ids or None)]
    return tuple(segments)


def _written(trajectory: Trajectory, index: int) -> Segment:
    turn = trajectory.turns[index]
    return Segment(turn.text, turn.completion_ids or None)


def _refine_block(trajectory: Trajectory, index: int) -> str:
    """The <refine> block that the policy wrote about the evidence of turn `index`, tags included, or ""."""
    if index + 1 >= len(trajectory.turns):
        return ""
    text = trajectory.turns[index + 1].text
    span = refine_span(text)
    return text[span[0] : span[1]] if span else ""


@dataclass(frozen=True, slots=True, order=True)
class _Evidence:
    """A (passages, refine) pair to draw from. Ordered by whose it is, so that a pool sorts the same way always."""

    question: tuple[str, str]
    index: int
    block: str  # passages with their tags
    refine: str  # with its tags, or ""


def _evidence(step: SearchStep, protocol: Protocol) -> _Evidence:
    question = step.trajectory.question
    turn = step.trajectory.turns[step.index]
    refine = _refine_block(step.trajectory, step.index) if protocol.family == "autorefine" else ""
    return _Evidence((question.dataset, question.id), step.index, protocol.evidence(turn.passages), refine)


def _segment(evidence: _Evidence, step: SearchStep, form: str) -> Segment:
    """An evidence in the place of the real one of `step`."""
    if form == "skeleton":
        return Segment("\n" + evidence.block + (f"\n{evidence.refine}" if evidence.refine else ""))
    # What the environment wrote after the block (the last call) stays, whatever the evidence.
    after = step.trajectory.turns[step.index].observation.rpartition(">")[2]
    return Segment(f"\n\n{evidence.block}{after}{evidence.refine}")


def _real_segment(evidence: _Evidence, step: SearchStep, form: str) -> Segment:
    segment = _segment(evidence, step, form)
    turn = step.trajectory.turns[step.index]
    if form == "trajectory" and not evidence.refine and turn.observation_ids:
        return Segment(segment.text, turn.observation_ids)
    return segment


def _corpus_evidence(
    real: _Evidence, count: int, passages: int, protocol: Protocol, retriever: Retriever, rng: np.random.Generator
) -> list[_Evidence]:
    """`count` evidences of `passages` random passages each.

    No policy ever refined these. Where the real evidence was refined, the text of the first random passage,
    cut to as many words, stands in, so that the branches stay of one form and length.
    """
    words = len(refine_text(real.refine).split())
    made = []
    for _ in range(count):
        for _ in range(20):  # the very passages that were found would compare nothing; a tiny corpus has no others
            drawn = retriever.sample(min(passages, len(retriever)), rng)
            if protocol.evidence(drawn) != real.block:
                break
        refine = f"<refine> {' '.join(drawn[0].text.split()[:words])}</refine>" if real.refine else ""
        made.append(_Evidence(("", ""), 0, protocol.evidence(drawn), refine))
    return made


# ---------------------------------------------------------------- the measure


@dataclass(frozen=True)
class InformationGain:
    """Measures search steps. The numbers depend on `seed`, question, step and pool, never on batch order."""

    config: InformationGainConfig
    scorer: AnswerScorer
    protocol: Protocol
    retriever: Retriever | None = None
    seed: int = 0

    def measure(self, steps: Sequence[SearchStep], pool: Sequence[SearchStep] | None = None) -> list[Gain]:
        """One gain per step, scored in one call. `pool`: searches to draw random evidence from (default `steps`)."""
        requests, evidences = self.requests(steps, pool)
        scores = self.scorer.score(requests)
        gains = []
        if self.config.baseline == "previous":
            for real, before in zip(scores[::2], scores[1::2], strict=True):
                gains.append(Gain(real[0] - before[0], real[0], before[0]))
            return gains
        for (real_score, *others), texts in zip(scores, evidences, strict=True):
            mean = sum(others) / len(others)
            gains.append(Gain(real_score - mean, real_score, mean, texts))
        return gains

    def requests(
        self, steps: Sequence[SearchStep], pool: Sequence[SearchStep] | None = None
    ) -> tuple[list[ScoreRequest], list[tuple[str, ...]]]:
        """The score requests of the steps and the texts of their baseline evidences.

        One request a step, branches real first; for the baseline "previous" two a step: now, and before it.
        """
        form, protocol, weight = self.config.context, self.protocol, self.config.head_weight
        drawn = self._draw(steps, steps if pool is None else pool)
        requests, texts = [], []
        for step, baselines in zip(steps, drawn, strict=True):
            real = _evidence(step, protocol)
            branches = [_real_segment(real, step, form), *(_segment(b, step, form) for b in baselines)]
            answer = step.trajectory.question.golden_answers[0]
            prefix, target = ("\n<answer> ", answer) if form == "skeleton" else ("<answer>", f" {answer}")
            if form == "trajectory" and real.refine:
                prefix = "\n" + prefix
            requests.append(ScoreRequest(context(step, form), tuple(branches), prefix, target, weight))
            if self.config.baseline == "previous":
                before = _history(step.trajectory, step.index)
                requests.append(ScoreRequest(before, (Segment("", ()),), prefix, target, weight))
            texts.append(tuple(branch.text for branch in branches[1:]))
        return requests, texts

    def _draw(self, steps: Sequence[SearchStep], pool: Sequence[SearchStep]) -> list[list[_Evidence]]:
        if self.config.baseline == "previous":
            return [[] for _ in steps]
        if self.config.baseline == "empty":
            return [[_Evidence(("", ""), 0, self.protocol.evidence(()), "")] for _ in steps]
        from_batch = self.config.random_source == "batch"
        sorted_pool = sorted({_evidence(step, self.protocol) for step in pool}) if from_batch else []
        owners = [evidence.question for evidence in sorted_pool]
        return [self._draw_one(step, sorted_pool, owners) for step in steps]

    def _draw_one(
        self, step: SearchStep, pool: Sequence[_Evidence], owners: Sequence[tuple[str, str]]
    ) -> list[_Evidence]:
        question, wanted = step.trajectory.question, self.config.num_random
        own = (question.dataset, question.id)
        rng = np.random.default_rng([self.seed, zlib.crc32("\n".join(own).encode()), step.index])
        real = _evidence(step, self.protocol)
        low, high = bisect_left(owners, own), bisect_right(owners, own)
        others = len(pool) - (high - low)
        # A few to spare: another question may have found the very same passages, which would compare nothing.
        places = rng.choice(others, min(2 * wanted + 2, others), replace=False).tolist() if others else []
        candidates = [pool[i if i < low else i + high - low] for i in places]
        chosen = [c for c in candidates if c.block != real.block][:wanted]
        if len(chosen) < wanted:
            if self.retriever is None:
                raise ConfigurationError(
                    f"{len(chosen)} random evidences for question {question.id!r}, {wanted} wanted: "
                    "give a retriever to draw the others from its corpus, or more questions a batch"
                )
            count = len(step.trajectory.turns[step.index].passages)
            chosen += _corpus_evidence(real, wanted - len(chosen), count, self.protocol, self.retriever, rng)
        return chosen
