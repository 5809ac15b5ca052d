"""The model-free scorer: its formula, and that it rewards evidence that is relevant and new."""

from __future__ import annotations

import math

import pytest
from helpers import PASSAGES, small_retriever
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env import ConfigurationError, ScoreRequest, Segment, UnigramScorer
from igsearch_env.scorers import weighted_mean
from retrievers import BM25Retriever, Passage

LOGPROBS = st.lists(st.floats(-20, 0), min_size=1, max_size=8)


def request(context: str, answer: str, *evidences: str) -> ScoreRequest:
    """One answer under several evidences."""
    return ScoreRequest((Segment(context),), tuple(map(Segment, evidences)), "<answer>", f" {answer}")


@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [
        ([-2.0], -2.0),
        ([-1.0, -2.0], -1.5),
        ([-1.0, -2.0, -3.0], -2.0),
        ([-1.0, -1.0, -1.0, -2.0, -2.0], -13 / 11),
        ([0.0, 0.0, 0.0, -10.0], -1.0),
    ],
)
def test_first_three_tokens_weigh_three(logprobs: list[float], mean: float) -> None:
    assert weighted_mean(logprobs) == pytest.approx(mean)


def test_weights_can_be_set() -> None:
    assert weighted_mean([-1.0, -4.0], head_tokens=1, head_weight=2.0) == pytest.approx(-2.0)
    assert weighted_mean([-1.0, -4.0], head_tokens=0) == pytest.approx(-2.5)


@given(LOGPROBS)
def test_weighted_mean_lies_between_the_extremes(logprobs: list[float]) -> None:
    assert min(logprobs) - 1e-9 <= weighted_mean(logprobs) <= max(logprobs) + 1e-9


def test_an_answer_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no token"):
        weighted_mean([])


def test_score_is_the_smoothed_query_likelihood() -> None:
    # The corpus has 4 words, 3 of them different; one more stands for all the unseen ones.
    scorer = UnigramScorer(BM25Retriever([Passage("0", "Red", "red blue river")]), mu=10.0)
    seen, unseen = 10 * 3 / 8, 10 * 1 / 8
    ((with_red, without),) = scorer.score([request("a fish", "Red", "red red", "grey sea")])
    assert with_red == pytest.approx(math.log((2 + seen) / (3 + 10)))
    assert without == pytest.approx(math.log((0 + seen) / (3 + 10)))
    ((two_words,),) = scorer.score([request("fish", "red lantern", "")])
    assert two_words == pytest.approx((math.log(seen / 11) + math.log(unseen / 11)) / 2)


def test_relevant_evidence_scores_higher() -> None:
    scorer = UnigramScorer(small_retriever())
    ((relevant, *others),) = scorer.score(
        [request("Where was Alan Brin born?", "Tolona", *(passage.text for passage in PASSAGES if passage.id != "p1"))]
    )
    assert all(relevant > other for other in others)


def test_repeating_what_is_known_gains_less() -> None:
    scorer = UnigramScorer(small_retriever())
    fact, noise = PASSAGES[0].text, PASSAGES[3].text
    gains = []
    for known in ("", fact, fact + fact):
        ((real, random),) = scorer.score([request(f"Where was Alan Brin born? {known}", "Tolona", fact, noise)])
        gains.append(real - random)
    assert gains[0] > gains[1] > gains[2] > 0


def test_requests_do_not_touch_each_other() -> None:
    scorer = UnigramScorer(small_retriever())
    requests = [request(p.title, p.text.split()[-1], p.text, "nothing", p.title) for p in PASSAGES]
    alone = [scorer.score([one])[0] for one in requests]
    assert scorer.score(requests) == alone
    assert scorer.score(requests[::-1]) == alone[::-1]
    assert scorer.score([]) == []


@pytest.mark.parametrize("answer", ["The", "...", "Ünseen", "a b c d e f g"])
def test_any_answer_has_a_finite_score(answer: str) -> None:
    ((score,),) = UnigramScorer(small_retriever()).score([request("", answer, "")])
    assert math.isfinite(score)
    assert score < 0


@pytest.mark.parametrize("mu", [0.0, -1.0])
def test_smoothing_must_be_positive(mu: float) -> None:
    with pytest.raises(ConfigurationError, match=f"mu={mu}"):
        UnigramScorer(small_retriever(), mu=mu)


def test_background_is_estimated_alike_every_time() -> None:
    asked = [request("", "Tolona", "Tolona", "fog")]
    assert UnigramScorer(small_retriever(), sample=3).score(asked) == UnigramScorer(small_retriever(), sample=3).score(
        asked
    )
