"""Answer metrics: what they ignore, what they reward, and their bounds. Golden numbers are tested elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from igsearch_env.rewards import (
    OUTCOME_REWARDS,
    autorefine_reward,
    exact_match,
    f1,
    normalize_answer,
    outcome_reward,
    sub_exact_match,
)

WORDS = st.sampled_from(["the", "a", "An", "yes", "no", "noanswer", "New", "york", "York.", "river", "1984", "-", "É"])
PHRASE = st.lists(WORDS, max_size=6).map(" ".join)
TEXT = PHRASE | st.text(max_size=40)
GOLDS = st.lists(TEXT, max_size=4)


@given(TEXT)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_answer(text)
    assert normalize_answer(once) == once


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Silent\tRiver!", "silent river"),
        ("a an the A AN THE", ""),
        ("U.S.A.", "usa"),
        ("theatre and anthem", "theatre and anthem"),
        ("rock 'n' roll", "rock n roll"),
        ("well-known", "wellknown"),
        ("ÉMILE Zola", "émile zola"),
        ("", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@given(PHRASE)
def test_metrics_ignore_case_articles_punctuation_and_spacing(phrase: str) -> None:
    noisy = "The " + "  ".join(word.upper() + "," for word in phrase.split()) + " a!"
    assert normalize_answer(noisy) == normalize_answer(phrase)
    assert exact_match(noisy, [phrase]) == 1.0


@given(TEXT, GOLDS)
def test_metrics_stay_between_0_and_1(prediction: str, golds: list[str]) -> None:
    assert 0.0 <= f1(prediction, golds) <= 1.0
    assert exact_match(prediction, golds) in (0.0, 1.0)
    assert sub_exact_match(prediction, golds) in (0.0, 1.0)
    for kind in OUTCOME_REWARDS:
        assert 0.0 <= outcome_reward(kind, prediction, golds, ["some text"]) <= 1.0


@given(TEXT, GOLDS, TEXT)
def test_another_golden_answer_never_hurts(prediction: str, golds: list[str], extra: str) -> None:
    for metric in (exact_match, f1, sub_exact_match):
        assert metric(prediction, [*golds, extra]) == max(metric(prediction, golds), metric(prediction, [extra]))


@given(TEXT, GOLDS)
def test_exact_match_compares_normal_forms(prediction: str, golds: list[str]) -> None:
    expected = normalize_answer(prediction) in [normalize_answer(gold) for gold in golds]
    assert exact_match(prediction, golds) == float(expected)


@given(TEXT, TEXT)
def test_f1_is_symmetric(one: str, other: str) -> None:
    assert f1(one, [other]) == f1(other, [one])


@given(TEXT)
def test_f1_of_the_same_answer_is_1(text: str) -> None:
    assume(normalize_answer(text))
    assert f1(text, [text]) == 1.0


@given(st.lists(st.sampled_from(["red", "river", "york"]), min_size=1, max_size=5), st.randoms())
def test_f1_ignores_word_order_but_counts_repetitions(words: list[str], random: object) -> None:
    shuffled = list(words)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert f1(" ".join(shuffled), [" ".join(words)]) == 1.0
    assert f1(" ".join([*words, words[0]]), [" ".join(words)]) < 1.0


def test_f1_is_the_harmonic_mean_over_word_multisets() -> None:
    assert f1("new new york", ["New York"]) == pytest.approx(2 * (2 / 3) * 1.0 / (2 / 3 + 1.0))
    assert f1("york", ["new york city"]) == pytest.approx(0.5)
    assert f1("rome", ["paris"]) == 0.0
    assert f1("york", ["paris", "new york city", "new york"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("word", ["yes", "no", "noanswer"])
def test_yes_and_no_earn_no_partial_credit(word: str) -> None:
    assert f1(f"{word} it is", [word]) == 0.0
    assert f1(word, [f"{word} it is"]) == 0.0
    assert f1(f"The {word}!", [word.upper()]) == 1.0


def test_no_golden_answer_earns_nothing() -> None:
    assert exact_match("Rome", []) == f1("Rome", []) == sub_exact_match("Rome", []) == 0.0


def test_sub_exact_match_finds_the_answer_inside() -> None:
    assert sub_exact_match("It is the New York, I think", ["Paris", "new york"]) == 1.0
    assert sub_exact_match("New Yor", ["new york"]) == 0.0


@given(GOLDS, st.lists(TEXT, max_size=3))
def test_no_answer_earns_nothing_whatever_was_refined(golds: list[str], refined: list[str]) -> None:
    for kind in OUTCOME_REWARDS:
        assert outcome_reward(kind, None, golds, [*refined, *golds]) == 0.0


@given(TEXT, GOLDS, st.lists(TEXT, max_size=3))
def test_autorefine_pays_f1_where_there_is_any(prediction: str, golds: list[str], refined: list[str]) -> None:
    reward = autorefine_reward(prediction, golds, refined)
    score = f1(prediction, golds)
    assert reward == score if score > 0 else reward in (0.0, 0.1)


def test_autorefine_consoles_a_wrong_answer_with_a_good_refine() -> None:
    golds = ["New York", "NYC"]
    assert autorefine_reward("Paris", golds, ["nothing here", "he was born in the New York!"]) == 0.1
    assert autorefine_reward("Paris", golds, ["he was born in Boston"]) == 0.0
    assert autorefine_reward("Paris", golds, []) == 0.0
    assert autorefine_reward("York", golds, ["New York"]) == pytest.approx(2 / 3)
    assert autorefine_reward("Paris", golds, ["nyc"], refine_score=0.25) == 0.25


def test_outcome_reward_by_name() -> None:
    golds, refined = ["New York"], ["New York"]
    assert outcome_reward("em", "York", golds, refined) == 0.0
    assert outcome_reward("f1", "York", golds, refined) == pytest.approx(2 / 3)
    assert outcome_reward("em", "new york", golds) == 1.0
    assert outcome_reward("f1", "Paris", golds, refined) == 0.0
    assert outcome_reward("autorefine", "Paris", golds, refined) == 0.1
