"""Text analysis of lexical search: the terms of a text, by the same rules for passages and queries.

case and form   compatibility forms (NFKC), case folding, no format characters (soft hyphen, zero-width joiner)
words           letters, digits and the marks that belong to them, also of one character; `c++` and `c#` are words
                beside `c`; no possessive 's; no comma in `10,000`
accents         folded in Latin, Greek, Cyrillic, Arabic, Hebrew and Syriac words (Beyonce finds Beyoncé), kept in
                other scripts, where a mark is a vowel
letters         Latin ones without decomposition as in Lucene's ASCIIFoldingFilter (Lodz finds Łódź), Arabic and
                Persian ones as in its ArabicNormalizationFilter; digits of any script are those of ASCII
unspaced text   Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese: every character and every pair of neighbours,
                as in Lucene's CJKAnalyzer
symbols         a term each, except those of ASCII: €, ♥
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import regex

from retrievers.base import RetrieverError
from retrievers.reading import MissingPackageError, install

NONE, ENGLISH = "none", "english"
STOPWORDS = {
    NONE: frozenset[str](),
    # Those of Lucene's EnglishAnalyzer, and words of questions that name nothing.
    ENGLISH: frozenset(
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "  # noqa: SIM905
        "this to was will with who whom whose what which when where why how do does did has have had were been being "
        "its his her he she him from than".split()
    ),
}
# Shorter queries keep their stop words, since they are rarely questions: `doctor who episodes`.
LONG_QUERY = 6

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:\+\+|#)?")
_WORD = regex.compile(r"[\p{L}\p{N}\p{M}\p{Cf}]+(?:\+\+|\#)?|[\p{S}--\p{ASCII}]", regex.VERSION1)
_RUN = regex.compile(rf"([{_UNSPACED}][{_UNSPACED}\p{{M}}]*)")
_CHARACTER = regex.compile(r"\X")
_FORMAT = regex.compile(r"[\p{Cf}\p{Variation_Selector}]+")
_ACCENT = regex.compile(r"(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Arabic}\p{Hebrew}\p{Syriac}]\p{Mn}*)\p{Mn}+")
_DIGIT = regex.compile(r"[\p{Nd}--\p{ASCII}]", regex.VERSION1)
_FOLDED = str.maketrans(
    {
        **{"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ŋ": "n", "ı": "i"},
        **{"æ": "ae", "œ": "oe", "þ": "th"},
        **dict.fromkeys("ʻʼʽʾʿ", ""),  # letters in the place of an apostrophe: Hawaiʻi, Qurʾan
        **{"ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ـ": ""},  # the last one only stretches a word
    }
)
_CAPITALISED = re.compile(r"(?<!^)\b[A-Z][a-z]+\b")
_POSSESSIVE = re.compile(r"'s\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Stemmer(Protocol):
    """What is used of PyStemmer."""

    def stemWords(self, words: list[str]) -> list[str]:
        """The stem of each word."""
        ...


class AnalysisError(RetrieverError, ValueError):
    """A stemmer or a list of stop words that does not exist."""


class Analyzer:
    """Turns texts into terms.

    Args:
        stemmer: a Snowball algorithm of PyStemmer by its name ("english", "german", ...), or "none".
        stopwords: "english" leaves function words out of queries of at least `LONG_QUERY` words that have others, too,
            but not those with a capital inside the query, which are names. "none" keeps all. An index has all words.
        min_length: characters of the shortest word that is a term, in passages and queries.
    """

    def __init__(self, stemmer: str = NONE, stopwords: str = ENGLISH, min_length: int = 1) -> None:
        if stopwords not in STOPWORDS:
            raise AnalysisError(f"stopwords={stopwords!r}: must be one of {', '.join(STOPWORDS)}")
        self.stemmer, self.stopwords, self.min_length = stemmer, stopwords, min_length
        self._stem = None if stemmer == NONE else _snowball(stemmer)

    def words(self, text: str) -> list[str]:
        """The words of a text, before stop words and stems, without those that are too short."""
        found = words(text)
        return found if self.min_length == 1 else [word for word in found if len(word) >= self.min_length]

    def stems(self, found: Sequence[str]) -> Sequence[str]:
        """The stem of each word."""
        return found if self._stem is None else self._stem.stemWords(list(found))

    def query(self, text: str) -> Sequence[str]:
        """The terms of a query, stemmed."""
        found = self.words(text)
        if len(found) >= LONG_QUERY:
            stop = STOPWORDS[self.stopwords].difference(map(str.lower, _CAPITALISED.findall(text)))
            found = [word for word in found if word not in stop] or found
        return self.stems(found)


def words(text: str) -> list[str]:
    """The words of a text, before stop words and stems, in their order but for parts of words."""
    text = text.lower()
    if text.isascii():
        found: list[str] = _ASCII_WORD.findall(_joined(text))
    else:
        text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
        found = []
        for word in _WORD.findall(_joined(text)):
            if word.isascii():
                found.append(word)
            else:
                found += _parts(word)
    if "+" in text or "#" in text:
        found += [word.rstrip("+#") for word in found if word[-1] in "+#"]
    return found


def _joined(text: str) -> str:
    """The text without possessive 's and without commas inside numbers."""
    if "'" in text:
        text = _POSSESSIVE.sub("", text)
    return _THOUSANDS.sub("", text) if "," in text else text


@lru_cache(maxsize=2**17)
def _parts(word: str) -> tuple[str, ...]:
    """A word without accents; characters and pairs of characters of text without spaces."""
    decomposed = unicodedata.normalize("NFD", _FORMAT.sub("", word))
    folded = unicodedata.normalize("NFC", _ACCENT.sub("", decomposed)).translate(_FOLDED)
    folded = _DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), folded)
    found: list[str] = []
    for number, run in enumerate(_RUN.split(folded)):
        if number % 2:
            characters = _CHARACTER.findall(run)
            found += characters
            found += map(str.__add__, characters, characters[1:])
        elif run:
            found.append(run)
    return tuple(found)


def _snowball(name: str) -> Stemmer:
    try:
        library = importlib.import_module("Stemmer")
    except ImportError as error:
        raise MissingPackageError(
            f"stemmer={name!r}: requires PyStemmer, which can't be imported ({error}); {install('stemming')}"
        ) from error
    known = library.algorithms()
    if name not in known:
        raise AnalysisError(f"stemmer={name!r}: must be one of {NONE}, {', '.join(known)}")
    stemmer: Stemmer = library.Stemmer(name)
    return stemmer
