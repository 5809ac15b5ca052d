"""How well evidence supports an answer: the `AnswerScorer` interface and a model-free implementation."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from igsearch_env.errors import ConfigurationError, ScoringError
from igsearch_env.protocols import Role
from igsearch_env.rewards import normalize_answer
from retrievers.base import Retriever
from retrievers.random_streams import random_stream

HEAD_TOKENS, HEAD_WEIGHT = 3, 3.0
WHOLE_TOKENS = 4_096  # IG-Search `ig_reward.py`, `max_context_length`


SegmentRole = Role | Literal["prompt", "policy"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text, with its token ids as the policy read or wrote them, if a rollout recorded them.

    A scorer with a tokenizer uses `ids` unchanged and encodes `text` only if they are None: in the chat template of the
    policy, if it has one, as a message of `role`. "prompt" is the first observation, "policy" a turn of the policy;
    "assistant" continues the text before it.
    """

    text: str
    ids: tuple[int, ...] | None = None
    role: SegmentRole = "assistant"
    system: str = ""
    """Of a prompt: its system part, with which `text` begins."""

    @property
    def prompt(self) -> str:
        """The text without the system part."""
        return self.text.removeprefix(f"{self.system}\n\n") if self.system else self.text


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One answer to score under several evidences that share their context.

    Every branch reads context + evidence + answer_prefix + answer; only the tokens of `answer` are scored.
    The shared context is explicit, so that an implementation can encode it once.
    """

    context: tuple[Segment, ...]
    evidences: tuple[Segment, ...]
    answer_prefix: str
    answer: str
    head_weight: float = HEAD_WEIGHT
    whole: bool = False
    """For a scorer with a tokenizer: encode context, evidence and prefix as one text, in which names of special tokens
    count as those, and keep its last `WHOLE_TOKENS` tokens, as IG-Search does; the answer is encoded by itself."""


class AnswerScorer(Protocol):
    """Scores answers given evidence. With a tokenizer it also has `decode(ids)`: text, special tokens included."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """For each request one score per evidence: the `weighted_mean` of the answer's token log-probs, in nats."""
        ...


def check_scorer(scorer: object, repair: str) -> None:
    """Raise `ConfigurationError` unless `scorer` has `score(requests)`; `repair` ends the message."""
    if isinstance(scorer, type) or not callable(getattr(scorer, "score", None)):
        raise ConfigurationError(
            f"scorer={repr(scorer)[:80]}: must be an AnswerScorer, that is, have score(requests); {repair}"
        )


def checked_scores(scores: object, requests: Sequence[ScoreRequest]) -> list[list[float]]:
    """What a scorer returned for requests, as numbers.

    Raises `ScoringError` unless there is a finite number for each evidence of each request.
    """
    rule = "score(requests) must return a list for each request, of one finite number for each of its evidences"
    try:
        found = [[float(value) for value in row] for row in scores]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ScoringError(f"the scorer returned {repr(scores)[:80]}: {rule}; correct the scorer") from error
    if len(found) != len(requests):
        raise ScoringError(f"the scorer returned {len(found)} lists for {len(requests)} requests: {rule}")
    for number, (values, request) in enumerate(zip(found, requests, strict=True)):
        if len(values) != len(request.evidences) or not all(map(math.isfinite, values)):
            raise ScoringError(
                f"the scorer returned {repr(values)[:80]} for request {number}, of {len(request.evidences)} evidences "
                f"and the answer {request.answer[:60]!r}: {rule}; correct the scorer"
            )
    return found


def weighted_mean(
    logprobs: Sequence[float], *, head_tokens: int = HEAD_TOKENS, head_weight: float = HEAD_WEIGHT
) -> float:
    """Mean token log-prob, with weight `head_weight` on the first `head_tokens` tokens (weights normalised).

    Answers of at most `head_tokens` tokens get the plain mean. Source: IG-Search `ig_reward.py`.
    """
    if not logprobs:
        raise ConfigurationError("the answer has no token to score; golden answers must not be empty")
    weights = [head_weight if i < head_tokens else 1.0 for i in range(len(logprobs))]
    return sum(w * lp for w, lp in zip(weights, logprobs, strict=True)) / sum(weights)


@lru_cache(maxsize=8_192)  # of whole passages: about 25 KB each
def _count_words(text: str) -> tuple[Counter[str], int]:
    words = normalize_answer(text).split()
    return Counter(words), len(words)


Background = tuple[dict[str, float], float]  # p(word | corpus), and that of an unseen word


@dataclass(frozen=True, slots=True)
class _Known:
    """The background of a retriever that still exists, and what it was estimated from."""

    retriever: weakref.ref[Retriever]
    made_of: tuple[int, int]  # number of passages, size of the sample
    background: Background


_known: dict[int, _Known] = {}  # by id of the retriever


def _background(retriever: Retriever, sample: int) -> Background:
    """Estimated once for each retriever object, so that many environments over one open at once."""
    key, made_of = id(retriever), (len(retriever), sample)
    found = _known.get(key)
    if found is not None and found.retriever() is retriever and found.made_of == made_of:
        return found.background
    passages = retriever.sample(min(sample, len(retriever)), random_stream("background of the unigram scorer", 0))
    counts: Counter[str] = Counter()
    for p in passages:
        counts.update(normalize_answer(f"{p.title} {p.text}").split())
    # Add-one smoothing over the words seen, plus one pseudo-word for all unseen ones.
    total = sum(counts.values()) + len(counts) + 1
    background = {word: (count + 1) / total for word, count in counts.items()}, 1 / total
    with suppress(TypeError):  # of a class that takes no weak references: estimated for each scorer
        _known[key] = _Known(weakref.ref(retriever, lambda _: _known.pop(key, None)), made_of, background)
    return background


class UnigramScorer:
    """Query likelihood with Dirichlet smoothing; the environment's default, since it needs no model.

        p(w | d) = (count(w, d) + mu p(w | corpus)) / (|d| + mu)          Zhai & Lafferty 2001, Eq. 6

    The document d is all text of the branch before the answer, so that evidence which repeats known text
    has little gain. Words are those of `normalize_answer`.

    Args:
        retriever: its corpus gives p(w | corpus), estimated on at most `sample` passages.
        mu: pseudo-count of the smoothing, in words. 100 suits evidence of 50 to 500 words (our choice).
        sample: number of passages to estimate the background from.
    """

    def __init__(self, retriever: Retriever, *, mu: float = 100.0, sample: int = 5_000) -> None:
        if mu <= 0:
            raise ConfigurationError(f"mu={mu}: must be above 0, or an unseen word has probability 0")
        self.mu = mu
        self._background, self._unseen = _background(retriever, sample)

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One score per evidence of each request, in nats."""
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> list[float]:
        # An answer that normalises to nothing ("The") is scored without normalisation.
        words = normalize_answer(request.answer).split() or [request.answer]
        shared = [0] * len(words)
        shared_length = 0
        for segment in request.context:
            counts, length = _count_words(segment.text)
            shared = [have + counts[word] for have, word in zip(shared, words, strict=True)]
            shared_length += length
        smoothing = [self.mu * self._background.get(word, self._unseen) for word in words]
        scores = []
        for evidence in request.evidences:
            counts, length = _count_words(evidence.text)
            norm = math.log(shared_length + length + self.mu)
            scores.append(
                weighted_mean(
                    [
                        math.log(have + counts[word] + prior) - norm
                        for have, word, prior in zip(shared, words, smoothing, strict=True)
                    ],
                    head_weight=request.head_weight,
                )
            )
        return scores
