"""The terms of a text: scripts, spellings, and the same rules for passages and queries."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrievers import BM25Retriever, Passage
from retrievers.analysis import Analyzer, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Henry V, King", ["henry", "v", "king"]),
        ("C++ and C#", ["c++", "and", "c#", "c", "c"]),
        ("O'Neill's don't", ["o", "neill", "don", "t"]),
        ("Levi’s", ["levi"]),
        ("10,000 or 1,2", ["10000", "or", "1", "2"]),
        ("snake_case well-known", ["snake", "case", "well", "known"]),
        ("Straße ﬁn ＡＢＣ", ["strasse", "fin", "abc"]),
        ("Beyonce\u0301 BEYONCÉ", ["beyonce", "beyonce"]),
        ("Ёлка Άθήνα", ["елка", "αθηνα"]),
        ("İstanbul", ["istanbul"]),
        ("co\u00adoperate zero\u200bwidth", ["cooperate", "zerowidth"]),
        ("Łódź Øresund Ðà Nẵng", ["lodz", "oresund", "da", "nang"]),
        ("Æthelred ǼØ Þórr œuvre", ["aethelred", "aeo", "thorr", "oeuvre"]),
        ("ISPARTA ısparta Iğdır", ["isparta", "isparta", "igdir"]),
        ("Hawaiʻi Qurʾān", ["hawaii", "quran"]),
        ("١٩٩٠ २०२४ ５０ 1990年 ๒๕๖๓", ["1990", "2024", "50", "1990", "年", "2563"]),
        ("محـــمد على مدرسة", ["محمد", "علي", "مدرسه"]),
        ("کتاب كتاب", ["كتاب", "كتاب"]),
        ("ܫܠܵܡܵܐ", ["ܫܠܡܐ"]),
        ("辻\U000e0100 ❤\ufe0f", ["辻", "❤"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("தமிழ் বাংলা", ["தமிழ்", "বাংলা"]),
        ("مُحَمَّد", ["محمد"]),
        ("北京大", ["北", "京", "大", "北京", "京大"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン", "ラー", "ーメ", "メン"]),
        ("ภาษา", ["ภ", "า", "ษ", "า", "ภา", "าษ", "ษา"]),
        ("ที่นี่", ["ที่", "นี่", "ที่นี่"]),
        ("서울은", ["서", "울", "은", "서울", "울은"]),
        ("X線 iPhone版", ["x", "線", "iphone", "版"]),
        ("5 € ♥ 100% $", ["5", "€", "♥", "100"]),
        ("?! ... \t", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@given(st.text(max_size=30))
def test_composition_and_case_do_not_matter(text: str) -> None:
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))
    if text.isascii():
        assert words(text.upper()) == words(text.lower())


@given(st.text(max_size=30))
def test_a_text_finds_itself(text: str) -> None:
    retriever = BM25Retriever([Passage("1", text, "sure"), Passage("2", "other", "")])
    found = [passage.id for passage in retriever.search([text], 2)[0]]
    assert ("1" in found) == bool(words(text))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("中国的首都是哪里", "zh"),
        ("华", "zh"),
        ("日本の首都はどこですか", "ja"),
        ("เมืองหลวงของไทย", "th"),
        ("대한민국의 수도는 어디인가", "ko"),
        ("भारत की राजधानी", "hi"),
        ("столица россии", "ru"),
    ],
)
def test_questions_in_other_scripts_find_their_passage(query: str, found: str) -> None:
    passages = [
        Passage("zh", "", "北京是中华人民共和国的首都"),
        Passage("ja", "", "東京都は日本の首都である"),
        Passage("th", "", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"),
        Passage("ko", "", "서울은 대한민국의 수도이다"),
        Passage("hi", "", "नई दिल्ली भारत की राजधानी है"),
        Passage("ru", "", "Москва — столица России"),
        Passage("en", "", "Paris is the capital of France"),
    ]
    assert BM25Retriever(passages).search([query], 1)[0][0].id == found


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("Doctor Who", ["doctor", "who"]),
        ("who is the director of the film", ["director", "film"]),
        ("who is the director of Doctor Who", ["director", "doctor", "who"]),
        ("Who is the founder of The Who", ["founder", "the", "who"]),
        ("to be or not to be", ["to", "be", "or", "not", "to", "be"]),
    ],
)
def test_stop_words_are_left_out_of_questions(query: str, terms: list[str]) -> None:
    found = Analyzer(stopwords="english").query(query)
    assert [term for term in found if term in terms] == list(found)
    assert set(found) == set(terms)
    assert list(Analyzer(stopwords="none").query(query)) == words(query)
