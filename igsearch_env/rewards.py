"""Answer metrics and outcome rewards. All are pure functions of strings, floats in [0, 1].

Sources: SQuAD v1.1's evaluation script (normalisation, F1), Search-R1 `qa_em.py` (EM, sub-EM),
AutoRefine, arXiv 2505.11277, Eq. 1-3 (its reward), IGPO (F1 of word sets).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACES = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WHOLE = frozenset({"yes", "no", "noanswer"})  # answers that earn no partial credit

OutcomeReward = Literal["em", "f1", "autorefine"]
OUTCOME_REWARDS: tuple[OutcomeReward, ...] = get_args(OutcomeReward)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, single spaces: SQuAD's normalisation of English.

    Composed and decomposed accents are the same (NFC). Where most letters besides articles are not Latin, "a" is no
    article (`A 型`), and punctuation of any script is removed (`北京。`).
    """
    if text.isascii():
        return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    plain = unicodedata.normalize("NFC", text.lower()).translate(_PUNCTUATION)
    english = _ARTICLES.sub(" ", plain)
    if not _is_latin(english):
        english = "".join(c for c in plain if not unicodedata.category(c).startswith("P"))
    return " ".join(english.split())


def _is_latin(text: str) -> bool:
    """Whether at least half of the letters are Latin; also of a text without letters."""
    letters = [c for c in text if c.isalpha()]
    return 2 * sum("LATIN" in unicodedata.name(c, "") for c in letters) >= len(letters)


def exact_match(prediction: str, golden_answers: Sequence[str]) -> float:
    """1.0 if the prediction equals a golden answer after normalisation, else 0.0."""
    predicted = normalize_answer(prediction)
    return float(any(normalize_answer(gold) == predicted for gold in golden_answers))


def sub_exact_match(prediction: str, golden_answers: Sequence[str]) -> float:
    """1.0 if a normalised golden answer is a substring of the normalised prediction, else 0.0.

    A golden answer that normalises to nothing ("The") is contained in everything, as in Search-R1.
    """
    predicted = normalize_answer(prediction)
    return float(any(normalize_answer(gold) in predicted for gold in golden_answers))


def f1(prediction: str, golden_answers: Sequence[str]) -> float:
    """Best token F1 over the golden answers (SQuAD, tokens as a multiset).

    "yes", "no" and "noanswer" earn credit only when they match exactly.
    """
    return max((_f1(normalize_answer(prediction), normalize_answer(gold)) for gold in golden_answers), default=0.0)


def _f1(predicted: str, gold: str) -> float:
    if predicted != gold and (predicted in _WHOLE or gold in _WHOLE):
        return 0.0
    predicted_words, gold_words = predicted.split(), gold.split()
    common = sum((Counter(predicted_words) & Counter(gold_words)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted_words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def set_f1(prediction: str, golden_answers: Sequence[str]) -> float:
    """Best F1 over the golden answers, of sets of words (IGPO's `info_gain.py`).

    Unlike in `f1`, punctuation separates words, articles count, and repeated words count once.
    """
    predicted = _word_set(prediction)
    scores = [
        2 * len(predicted & words) / (len(predicted) + len(words)) for words in map(_word_set, golden_answers) if words
    ]
    return max(scores, default=0.0)


def _word_set(text: str) -> set[str]:
    return set(text.lower().translate(_SPACES).split())


def autorefine_reward(
    prediction: str | None, golden_answers: Sequence[str], refine_texts: Sequence[str], *, refine_score: float = 0.1
) -> float:
    """AutoRefine Eq. 3: F1 of the answer; if that is 0, `refine_score` if a refine block contains a golden answer.

    `prediction` None (no answer was given) earns 0 regardless of the refine blocks.
    """
    if prediction is None:
        return 0.0
    score = f1(prediction, golden_answers)
    if score > 0:
        return score
    return refine_score * sub_exact_match(" ".join(refine_texts), golden_answers) if refine_texts else 0.0


def outcome_reward(
    kind: str, prediction: str | None, golden_answers: Sequence[str], refine_texts: Sequence[str] = ()
) -> float:
    """The reward of an episode by name: "em", "f1" or "autorefine". No answer earns 0."""
    if kind == "autorefine":
        return autorefine_reward(prediction, golden_answers, refine_texts)
    if prediction is None:
        return 0.0
    return {"em": exact_match, "f1": f1}[kind](prediction, golden_answers)
