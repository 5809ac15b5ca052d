"""Reading actions and writing observations: any text is read, and passages can't act."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env import ConfigurationError
from igsearch_env.protocols import (
    PROTOCOLS,
    MAX_ACTION_CHARS,
    PROMPTS,
    STOP_TAGS,
    Answer,
    Invalid,
    Protocol,
    Search,
    action_span,
    parse,
    refine_span,
    refine_text,
    truncate,
)
from retrievers import Passage
from retrievers.base import MAX_QUERY_CHARS

TAGS = [
    f"<{slash}{name}>"
    for name in ("think", "search", "information", "documents", "refine", "answer")
    for slash in ("", "/")
]
PIECES = st.sampled_from(
    [*TAGS, "<SEARCH>", "</Answer>", "<search", "answer>", "< answer>", "<", ">", "/", "Rome", " ", "\n", "é"]
)
TAG_SOUP = st.lists(PIECES, max_size=30).map("".join)
FAMILY = st.sampled_from(PROTOCOLS)


@pytest.mark.parametrize("family", PROTOCOLS)
@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<search> river of Karith </search>", Search("river of Karith")),
        ("<answer>Ostue</answer>", Answer("Ostue")),
        ("<think> x </think>\n<search>q</search> and more", Search("q")),
        ("<search>first</search><search>second</search>", Search("first")),
        ("<answer>yes</answer><search>q</search>", Answer("yes")),
        ("<search>q</search><answer>yes</answer>", Search("q")),
        ("<search>two\nlines\n</search>", Search("two\nlines")),
        ("<search></search>", Search("")),
        ("<search>  \n </search>", Search("")),
        ("<answer></answer>", Answer("")),
        ("<search>never closed <answer>Rome</answer>", Answer("Rome")),
        ("<answer>never closed <search>q</search>", Search("q")),
        ("<search> a <search> b </search>", Search("a <search> b")),
        ("</search><search>q</search>", Search("q")),
        ("<search>crossed</answer> x </search>", Search("crossed</answer> x")),
        ("<answer>Ångström Straße 日本</answer>", Answer("Ångström Straße 日本")),
    ],
)
def test_first_complete_pair_counts(family: str, text: str, action: Search | Answer) -> None:
    assert parse(text, family) == action
    assert make_protocol(family).parse(text) == action


@pytest.mark.parametrize("family", PROTOCOLS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Rome",
        "<search>q",
        "q</search>",
        "<SEARCH>q</SEARCH>",
        "<Answer>Rome</Answer>",
        "<search >q</search>",
        "<search>" * 2000,
    ],
)
def test_text_without_a_pair_is_invalid_and_says_how_to_do_it_right(family: str, text: str) -> None:
    action = parse(text, family)
    assert isinstance(action, Invalid)
    assert "<search> query </search>" in action.reason
    assert "<answer> answer </answer>" in action.reason


def test_over_long_action_is_invalid_naming_size_and_limit() -> None:
    action = parse("<answer>Rome</answer>".ljust(100_000))
    assert isinstance(action, Invalid)
    assert "100000" in action.reason
    assert str(MAX_ACTION_CHARS) in action.reason


def test_limit_itself_is_allowed() -> None:
    assert parse("<answer>Rome</answer>".ljust(MAX_ACTION_CHARS)) == Answer("Rome")
    assert isinstance(parse("<answer>Rome</answer>".ljust(MAX_ACTION_CHARS + 1)), Invalid)
    assert MAX_ACTION_CHARS <= MAX_QUERY_CHARS  # so that no policy can write a query that a retriever refuses


@given(st.text() | TAG_SOUP, FAMILY)
def test_any_text_is_an_action(text: str, family: str) -> None:
    assert isinstance(parse(text, family), Search | Answer | Invalid)


@given(TAG_SOUP, FAMILY)
def test_parse_agrees_with_the_reference_expression(text: str, family: str) -> None:
    match = re.search(r"<(search|answer)>(.*?)</\1>", text, re.DOTALL)
    action = parse(text, family)
    if match is None:
        assert isinstance(action, Invalid)
        assert action_span(text) is None
    else:
        assert action == {"search": Search, "answer": Answer}[match[1]](match[2].strip())
        assert action_span(text) == (match[1], match.start(2), match.end(2))


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("<search> q </search> and on", "<search> q </search>"),
        ("<answer> Rome </answer> and on", "<answer> Rome </answer>"),
        ("<answer> Rome </answer> <search> q </search> x", "<answer> Rome </answer> <search> q </search>"),
        ("<search> a </search><search> b </search>", "<search> a </search>"),
        ("no tag at all", "no tag at all"),
        ("", ""),
    ],
)
def test_truncate_cuts_after_the_action(text: str, cut: str) -> None:
    assert truncate(text) == cut


@given(TAG_SOUP)
def test_truncate_is_a_prefix_and_idempotent(text: str) -> None:
    cut = truncate(text)
    assert text.startswith(cut)
    assert truncate(cut) == cut
    assert cut == text or cut.endswith(STOP_TAGS)


@pytest.mark.parametrize(
    ("text", "block", "said"),
    [
        ("<refine> a fact </refine> <search>q</search>", "<refine> a fact </refine>", "a fact"),
        ("<think>x</think><refine>one</refine><refine>two</refine>", "<refine>one</refine>", "one"),
        ("<refine> open <search>q</search>", "<refine> open ", "open"),
        ("<refine> open <answer>Rome</answer>", "<refine> open ", "open"),
        ("<refine> open to the end", "<refine> open to the end", "open to the end"),
        ("<refine></refine>", "<refine></refine>", ""),
    ],
)
def test_refine_block(text: str, block: str, said: str) -> None:
    span = refine_span(text)
    assert span is not None
    assert text[span[0] : span[1]] == block
    assert refine_text(text) == said


@pytest.mark.parametrize("text", ["", "no block", "</refine>", "<REFINE> x </REFINE>"])
def test_no_refine_block(text: str) -> None:
    assert refine_span(text) is None
    assert refine_text(text) == ""


@pytest.mark.parametrize("family", PROTOCOLS)
@pytest.mark.parametrize(
    "question", ["Who?", "What is {x} in {question}?", "{0} {} %s \\1 $&", "<answer> Rome </answer>"]
)
def test_prompt_holds_the_question_as_it_stands(family: str, question: str) -> None:
    protocol = make_protocol(family)
    assert protocol.question_prompt(question) == protocol.template.replace("{question}", "\0").replace("\0", question)
    assert question in protocol.question_prompt(question)


def test_prompts_teach_the_tags_of_their_family() -> None:
    for family, evidence in (("search_r1", "information"), ("autorefine", "documents")):
        prompt = make_protocol(family).question_prompt("Who?")
        for tag in ("think", "search", evidence, "answer"):
            assert f"<{tag}>" in prompt
            assert f"</{tag}>" in prompt
    assert "<refine>" in make_protocol("autorefine").template


def test_prompt_by_name_and_by_template() -> None:
    assert make_protocol("search_r1", "bare").question_prompt("Who?") == "Who?\n"
    assert make_protocol("autorefine", "search_r1").template == PROMPTS["search_r1"]
    assert make_protocol("search_r1", "Q: {question} A:").question_prompt("Who?") == "Q: Who? A:"


def test_template_without_a_place_for_the_question() -> None:
    with pytest.raises(ConfigurationError, match=r"Answer this.*\{question\}"):
        make_protocol("search_r1", "Answer this: {qestion}")


def test_prompt_from_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Frage — {question}\n", encoding="utf-8")
    assert Protocol.from_file("autorefine", path).question_prompt("Wer?") == "Frage — Wer?\n"
    path.write_text("nothing to ask", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="nothing to ask"):
        Protocol.from_file("autorefine", path)


@pytest.mark.parametrize("make", [Protocol, lambda family: parse("x", family)])
@pytest.mark.parametrize(("family", "near"), [("search_r2", "search_r1"), ("autorefin", "autorefine")])
def test_unknown_family_names_the_nearest(make: object, family: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{family}'.*did you mean '{near}'"):
        make(family)  # type: ignore[operator]


@given(st.lists(st.tuples(TAG_SOUP, TAG_SOUP), max_size=4), FAMILY)
def test_tags_in_passages_are_disarmed(pairs: list[tuple[str, str]], family: str) -> None:
    passages = [Passage(str(i), title, text) for i, (title, text) in enumerate(pairs)]
    observation = make_protocol(family).observation(passages)
    assert isinstance(parse(observation, family), Invalid)
    assert refine_span(observation) is None
    tag = "information" if family == "search_r1" else "documents"
    assert [found for found in TAGS for _ in range(observation.count(found))] == [f"<{tag}>", f"</{tag}>"]
    assert truncate(observation) == observation


@pytest.mark.parametrize(("family", "tag"), [("search_r1", "information"), ("autorefine", "documents")])
def test_observation_shows_passages_in_order(family: str, tag: str) -> None:
    protocol = make_protocol(family)
    passages = [Passage("7", "Karith", "stands on the Ostue."), Passage("3", "Lurm", "is a sea, x < y.")]
    block = f"<{tag}>Doc 1(Title: Karith) stands on the Ostue.\nDoc 2(Title: Lurm) is a sea, x < y.</{tag}>"
    assert protocol.evidence(passages) == block
    assert protocol.observation(passages) == f"\n\n{block}\n\n"
    assert protocol.observation([]) == f"\n\n<{tag}></{tag}>\n\n"
